import keras
import numpy as np
import pytest

from keras_traps.attacks import create
from keras_traps.attacks.loop import Stream, per_example
from tests.attacks.victims import TWO_CLASSES, linear, some_images, two_classes


@pytest.mark.parametrize("kind", ["uniform", "sign"])
def test_noise_fills_the_ball_or_its_border(kind: str) -> None:
    images = some_images(200)
    result = create("Noise", eps=0.25, noise_kind=kind)(
        two_classes(), images, [0] * 200
    )
    shares = np.abs(result.images - images).reshape(-1) / 0.25
    assert shares.max() <= 1 + 1e-5
    if kind == "sign":
        np.testing.assert_allclose(shares, 1, atol=1e-5)
    else:
        counts, _ = np.histogram(shares, 4, (0, 1))
        assert np.abs(counts / shares.size - 0.25).max() < 0.06


def test_an_example_stops_at_its_first_success() -> None:
    images = some_images(40)
    labels = two_classes()(images).numpy().argmax(axis=1)
    short = create("Noise", eps=0.4, nb_restarts=3)(two_classes(), images, labels)
    long = create("Noise", eps=0.4, nb_restarts=12)(two_classes(), images, labels)

    assert 0 < short.success.sum() < long.success.sum()
    assert (long.iterations[~long.success] == 12).all()
    assert len(set(long.iterations[long.success])) > 3
    # The tries of a longer run begin with those of a shorter one.
    done = short.success
    np.testing.assert_array_equal(long.images[done], short.images[done])
    np.testing.assert_array_equal(long.iterations[done], short.iterations[done])


def test_blocks_move_alike_and_each_channel_by_itself() -> None:
    image = keras.Input((5, 7, 2))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
    images = np.full((3, 5, 7, 2), 0.5, np.float32)
    result = create("Noise", eps=0.25, block_size=3)(model, images, [0] * 3)
    change = result.images - images
    corners = change[:, ::3, ::3]
    assert corners.shape == (3, 2, 3, 2)
    expected = corners.repeat(3, axis=1).repeat(3, axis=2)[:, :5, :7]
    np.testing.assert_array_equal(change, expected)
    assert len(np.unique(corners)) == corners.size


def test_blocks_of_one_pixel_are_plain_noise() -> None:
    images = some_images(4)

    def draw(generator: np.random.Generator) -> np.ndarray:
        own = np.random.default_rng([int(generator.integers(2**63)), 0])
        return own.uniform(-1, 1, images.shape[1:])

    drawn = per_example(draw, np.arange(4), 5, Stream.NOISE)
    result = create("Noise", eps=0.25)(two_classes(), images, [0] * 4, seed=5)
    np.testing.assert_allclose(result.images, images + 0.25 * drawn, atol=1e-6)


def test_blocks_of_flat_images_are_refused() -> None:
    image = keras.Input((6,))
    model = keras.Model(image, keras.layers.Dense(2)(image))
    flat = some_images(2).reshape(2, 6)
    attack = create("Noise", eps=0.25, block_size=2)
    with pytest.raises(ValueError, match=r"Noise goes by the height.*flat"):
        attack(model, flat, [0, 0])
    create("Noise", eps=0.25)(model, flat, [0, 0])


def test_a_failure_keeps_the_noise_that_came_nearest() -> None:
    images, labels = some_images(30), np.zeros(30, np.int64)
    model = linear(TWO_CLASSES + np.array([[9.0, 0.0]], np.float32))
    leads = []
    for restarts in (1, 20):
        result = create("Noise", eps=0.1, nb_restarts=restarts)(model, images, labels)
        assert not result.success.any()
        logits = model(result.images).numpy()
        leads.append(logits[:, 1] - logits[:, 0])
    assert (leads[1] >= leads[0] - 1e-6).all()
    assert (leads[1] > leads[0] + 0.01).any()
