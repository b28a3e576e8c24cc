import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import pixel_pairs
from keras_traps.attacks.pixel_pairs import best_pairs

Floats = npt.NDArray[np.float64]
ROWS = 30


def saliency_map(
    target: Floats, others: Floats, allowed: npt.NDArray[np.bool_]
) -> Floats:
    """The map of all pairs, 0 where a pair is not admissible."""
    alpha = target[:, :, None] + target[:, None, :]
    beta = others[:, :, None] + others[:, None, :]
    admissible = (alpha > 0) & (beta < 0) & ~np.eye(target.shape[1], dtype=bool)
    admissible &= allowed[:, :, None] & allowed[:, None, :]
    return np.where(admissible, alpha * np.abs(beta), 0.0)


def derivatives(kind: str, features: int) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(features)
    target = draw.integers(-64, 65, (ROWS, features)) / 16.0
    noise = draw.integers(-64, 65, (ROWS, features)) / 16.0
    others = {
        "independent": noise,
        # Nearly all of them are on the front.
        "contrary": target + noise / 16,
        "alike": -target,
        "few values": np.sign(noise),
        "no gradient": np.zeros_like(noise),
        "admissible nowhere": np.abs(noise),
    }[kind]
    return (np.sign(target) if kind == "few values" else target), others


def check(target: Floats, others: Floats, allowed: npt.NDArray[np.bool_]) -> None:
    values = saliency_map(target, others, allowed)

    pairs = best_pairs(
        tf.constant(target, tf.float32), tf.constant(others, tf.float32), allowed
    )

    best = values.max(axis=(1, 2))
    found = pairs.found.numpy()
    np.testing.assert_array_equal(found, best > 0)
    taken = values[np.arange(ROWS), pairs.first, pairs.second]
    np.testing.assert_allclose(taken[found], best[found], rtol=1e-6)


@pytest.mark.parametrize("features", [2, 3, 5, 8, 9, 40])
@pytest.mark.parametrize(
    "kind",
    [
        "independent",
        "contrary",
        "alike",
        "few values",
        "no gradient",
        "admissible nowhere",
    ],
)
def test_no_pair_of_the_map_is_better(kind: str, features: int) -> None:
    target, others = derivatives(kind, features)
    check(target, others, np.ones(target.shape, bool))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_only_allowed_features_are_taken(share: float) -> None:
    target, others = derivatives("independent", 20)
    check(target, others, np.random.default_rng(0).random(target.shape) < share)


def test_one_allowed_feature_makes_no_pair() -> None:
    allowed = np.zeros((1, 4), bool)
    allowed[0, 2] = True
    pairs = best_pairs(
        tf.fill((1, 4), 1.0), tf.fill((1, 4), -1.0), tf.constant(allowed)
    )
    assert not pairs.found.numpy().any()


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    target, others = derivatives("contrary", 40)
    monkeypatch.setattr(pixel_pairs, "_BLOCK", block * ROWS * 40)
    check(target, others, np.ones(target.shape, bool))
    monkeypatch.setattr(pixel_pairs, "_BLOCK", 1)
    check(target, others, np.ones(target.shape, bool))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_derivatives_does_not_matter(scale: float) -> None:
    target, others = derivatives("independent", 20)
    allowed = np.ones(target.shape, bool)
    plain = best_pairs(
        tf.constant(target, tf.float32), tf.constant(others, tf.float32), allowed
    )
    scaled = best_pairs(
        tf.constant(target * scale, tf.float32),
        tf.constant(others * scale, tf.float32),
        allowed,
    )
    np.testing.assert_array_equal(scaled.found, plain.found)
    assert plain.found.numpy().all()
    values = saliency_map(target, others, allowed)
    rows = np.arange(ROWS)
    np.testing.assert_allclose(
        values[rows, scaled.first, scaled.second],
        values[rows, plain.first, plain.second],
        rtol=1e-6,
    )


def test_the_map_of_all_pairs_is_never_made() -> None:
    # It would take 40 GB.
    draw = np.random.default_rng(0)
    target = tf.constant(draw.normal(size=(1, 100_000)), tf.float32)
    others = tf.constant(draw.normal(size=(1, 100_000)), tf.float32)
    pairs = best_pairs(target, others, tf.ones(target.shape, tf.bool))
    assert pairs.found.numpy().all()
