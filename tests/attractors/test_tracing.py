from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import attacks
from keras_traps._checks import FloatArray
from keras_traps.attractors import Calibration, Registry, TrapSettings, inject, trace
from keras_traps.attractors.tracing import Trace, _watermarks
from keras_traps.datasets import Dataset
from keras_traps.ops import Key, qim_embed

MASTER = Key.from_seed(0)
NAMES = ("alice", "bob", "carol")


def registry(shape: tuple[int, ...] = (16, 16, 1), **changes: Any) -> Registry:
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)))
    settings: dict[str, Any] = {"a0": -1e-4, "a1": 0.0, "a2": 0.4, **changes}
    settings |= {"output": "logits", "step_weights": (10.0, 1.0)}
    return Registry.of(model, TrapSettings(**settings), MASTER, NAMES)


def noise(
    count: int, seed: int = 0, shape: tuple[int, ...] = (16, 16, 1)
) -> FloatArray:
    return np.random.default_rng(seed).random((count, *shape), np.float32)


def planted(found: Registry, name: str, images: FloatArray, message: int) -> FloatArray:
    """Images that hold a message of a copy."""
    key = found.keys(MASTER)[NAMES.index(name)]
    decoder = found.settings_of(key).decoder(found.num_classes)
    decoder.build((None, *found.shape))
    low, high = decoder.bounds
    held = qim_embed(
        decoder.grey_levels(images), decoder.message_bits[message], decoder.pixel_steps
    )
    return held.image.numpy() / 255 * (high - low) + low


@pytest.mark.parametrize("messages", ["balanced", "random"])
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_watermark_is_traced_to_its_copy(name: str, messages: str) -> None:
    found = registry(messages=messages)
    images = planted(found, name, noise(5, seed=1), message=2)
    traced = trace(images, found, MASTER, innocent=500)
    mine = NAMES.index(name)
    assert (traced.likeliest == mine).all()
    assert traced.p_values[mine] == pytest.approx([1 / 501] * 5)
    assert traced.accused()[mine].all()
    assert (np.delete(traced.p_values, mine, axis=0) > 1 / 501).all()


def test_an_old_version_is_traced_and_the_new_one_is_not() -> None:
    found = registry()
    images = planted(found, "bob", noise(3, seed=1), message=0)
    found = found.hand_out(MASTER, ["bob"])
    traced = trace(images, found, MASTER, innocent=500)
    assert [traced.copies[one].title for one in traced.likeliest] == [
        "bob, version 1"
    ] * 3
    assert traced.copies[3].title == "bob, version 2"
    assert (traced.p_values[3] > 1 / 501).all()


def test_images_of_another_range_are_traced() -> None:
    found = registry(bounds=(-1.0, 1.0))
    images = planted(found, "alice", 2 * noise(3, seed=1) - 1, message=1)
    traced = trace(images, found, MASTER, innocent=200)
    assert (traced.likeliest == 0).all()


def test_a_watermark_is_what_the_decoder_computes() -> None:
    small, large = registry((9, 7, 3)), registry((400, 330, 1))
    # The messages of the large images are not written out.
    for found in (small, large):
        images = noise(3, shape=found.shape)
        keys = found.keys(MASTER)
        values = np.concatenate(list(_watermarks(images, found, keys)))
        for key, own in zip(keys, values, strict=True):
            decoder = found.settings_of(key).decoder(4)
            decoder.build((None, *found.shape))
            steps, weights = (
                np.asarray(each, np.float64)
                for each in (decoder.pixel_steps, decoder.pixel_weights)
            )
            grey = 255.0 * images.reshape(3, -1).astype(np.float64)
            # The way to the nearest codeword of the bit 0; that of 1 is a step away.
            q = abs((grey + 0.5 * steps) % (2 * steps) - steps)
            sign = 1.0 - 2.0 * decoder.message_bits.numpy()
            wanted = (weights * (0.5 * steps - q)) @ sign.T
            assert own == pytest.approx(wanted, rel=1e-3, abs=1e-3 * wanted.std())


def test_p_values_of_images_of_nobody_are_uniform() -> None:
    images = noise(400, seed=3)
    traced = trace(images, registry(), MASTER, innocent=999)
    p = traced.p_values.ravel()
    # Four standard deviations of binomial counts; images of one key are not quite
    # independent, but nearly.
    for share in (0.01, 0.1, 0.5, 0.9):
        count = (p <= share).sum()
        assert abs(count - share * p.size) <= 4 * np.sqrt(share * (1 - share) * p.size)
    assert traced.accused().any(axis=0).mean() <= 0.01 + 4 * np.sqrt(0.01 / 400)


def test_the_p_value_is_the_rank_among_the_innocent() -> None:
    copies = registry().copies
    innocent = np.arange(99, dtype=np.float32)[:, None].repeat(2, axis=1)
    scores = np.array([[98.5, 98.0], [-1.0, 0.0], [49.5, 50.0]], np.float32)
    found = Trace(copies, scores, innocent)
    expected = [[0.01, 0.02], [1.0, 1.0], [0.5, 0.5]]
    assert found.p_values == pytest.approx(np.array(expected))
    assert found.likeliest.tolist() == [0, 0]
    assert found.accused(0.03).tolist() == [[True, False], [False] * 2, [False] * 2]
    # Three copies at 1 % take 299 innocent keys.
    with pytest.raises(ValueError, match="299 are needed"):
        found.accused()


def test_a_set_of_images_tells_more_than_one() -> None:
    found = registry()
    clean = noise(40, seed=5)
    # So little of the watermark that no image tells by itself.
    images = clean + 0.003 * np.sign(planted(found, "carol", clean, 1) - clean)
    images = np.clip(images, 0, 1)
    traced = trace(images, found, MASTER, innocent=500)
    assert np.median(traced.p_values[2]) > 0.01
    together = traced.together()
    assert together.scores.shape == (3, 1)
    assert together.p_values[2, 0] < 0.01
    assert together.scores[2, 0] == pytest.approx(traced.scores[2].sum(), rel=1e-5)


def test_the_same_images_get_the_same_p_values_and_others_get_other_keys() -> None:
    one, same, other = (
        trace(noise(2, seed), registry(), MASTER, innocent=20) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.innocent, same.innocent)
    assert (one.innocent != other.innocent).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": noise(2, shape=(8, 8, 1))}, "images of shape"),
        ({"innocent": 0}, "innocent"),
        ({"master": Key.from_seed(1)}, "fingerprint"),
    ],
)
def test_what_cannot_be_traced_is_refused(changes: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = {"images": noise(2), "registry": registry()}
    given |= {"master": MASTER, "innocent": 5, **changes}
    with pytest.raises(ValueError, match=told):
        trace(**given)


def test_an_attack_on_a_copy_is_traced(
    classifier: keras.Model,
    calibration: Calibration,
    digits_test: Dataset,
) -> None:
    found = Registry.of(classifier, calibration.settings, MASTER, NAMES)
    trapped = inject(classifier, found.settings_of(found.keys(MASTER)[1]))
    attack = attacks.create("PGD", eps=0.3, eps_iter=0.05, nb_iter=15)
    images = attack(
        trapped, digits_test.images[:20], digits_test.labels[:20], output="scores"
    ).images
    traced = trace(images, found, MASTER, innocent=999)
    assert (traced.likeliest == 1).mean() > 0.9
    assert traced.together().accused()[:, 0].tolist() == [False, True, False]
