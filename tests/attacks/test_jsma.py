import functools
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from keras_traps.attacks.jsma import best_two
from tests.attacks.victims import PIXELS, SHAPE, linear

Floats = npt.NDArray[np.float64]
KERNEL = np.random.default_rng(0).normal(0, 1, (PIXELS, 3)).astype(np.float32)


@functools.cache
def three_classes() -> keras.Model:
    return linear(KERNEL)


def best_pair(
    images: npt.NDArray[Any], target: int, allowed: set[int]
) -> tuple[int, int] | None:
    """Papernot et al., algorithm 3, for one image."""
    kernel = KERNEL.astype(np.float64)
    logits = images.reshape(-1).astype(np.float64) @ kernel
    p = np.exp(logits - logits.max())
    p /= p.sum()
    kernel = (kernel - (kernel * p).sum(axis=1, keepdims=True)) * p
    alphas = kernel[:, target]
    mask = np.isin(np.arange(PIXELS), list(allowed))
    (values,) = saliency_map(
        alphas[None], kernel.sum(axis=1)[None] - alphas, mask[None]
    )
    if not values.any():
        return None
    one, other = np.unravel_index(values.argmax(), values.shape)
    return int(one), int(other)


def transcribed(
    image: npt.NDArray[np.float32], target: int, theta: float, steps: int
) -> tuple[npt.NDArray[Any], int]:
    """The whole attack on one image: what it comes to, and after how many steps."""
    moved = image.astype(np.float64)
    allowed = set(np.flatnonzero(image.reshape(-1) < 0.99).tolist())
    for step in range(steps + 1):
        if (moved.reshape(-1) @ KERNEL.astype(np.float64)).argmax() == target:
            return moved, step
        pair = best_pair(moved, target, allowed)
        if pair is None:
            return image, step
        if step == steps:
            break
        for pixel in pair:
            moved.reshape(-1)[pixel] = min(moved.reshape(-1)[pixel] + theta, 1)
            allowed.discard(pixel)
    return image, steps


@pytest.mark.parametrize(
    ("theta", "gamma", "steps"), [(1.0, 0.1, 1), (0.3, 0.5, 2), (1.0, 1.0, 3)]
)
def test_it_takes_the_pairs_that_its_authors_take(
    theta: float, gamma: float, steps: int
) -> None:
    images = np.random.default_rng(1).random((40, *SHAPE), np.float32)
    images[::3, 0] = 1.0
    targets = np.arange(40) % 3
    attack = create("JSMA", theta=theta, gamma=gamma)

    result = attack(three_classes(), images, (targets + 1) % 3, y_target=targets)

    expected = [
        transcribed(image, int(target), theta, steps)
        for image, target in zip(images, targets, strict=True)
    ]
    np.testing.assert_allclose(result.images, [made for made, _ in expected], atol=1e-6)
    assert result.iterations.tolist() == [step for _, step in expected]
    # Some reach their target, some do not.
    assert 0 < result.success.sum() < 40
    assert result.iterations.max() == min(steps, 2)


@pytest.mark.parametrize(("shape", "steps"), [((28, 28, 1), 40), ((4, 5, 1), 1)])
def test_the_steps_are_half_of_gammas_share_rounded_up(
    shape: tuple[int, int, int], steps: int
) -> None:
    image = keras.Input(shape)
    # Only the first class can be answered: all steps are made.
    dense = keras.layers.Dense(2, use_bias=True)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    kernel = np.zeros((int(np.prod(shape)), 2), np.float32)
    kernel[:, 1] = 1e-6
    dense.set_weights([kernel, np.array([9.0, 0.0], np.float32)])
    result = create("JSMA")(model, np.zeros((1, *shape)), [0], y_target=[1])
    assert result.iterations.tolist() == [steps]


def saliency_map(
    target: Floats, others: Floats, allowed: npt.NDArray[np.bool_]
) -> Floats:
    """The map of all pairs, 0 where a pair is not admissible."""
    alpha = target[:, :, None] + target[:, None, :]
    beta = others[:, :, None] + others[:, None, :]
    admissible = (alpha > 0) & (beta < 0) & ~np.eye(target.shape[1], dtype=bool)
    admissible &= allowed[:, :, None] & allowed[:, None, :]
    return np.where(admissible, alpha * np.abs(beta), 0.0)


@pytest.mark.parametrize("features", [2, 40])
@pytest.mark.parametrize("few", [False, True])
def test_no_pair_of_the_map_is_better(few: bool, features: int) -> None:
    draw = np.random.default_rng(features)
    gains = draw.integers(-64, 65, (30, features)) / 16.0
    # Ties.
    gains = np.sign(gains) if few else gains
    some = draw.random(gains.shape) < 0.8
    for allowed in (some, ~some, np.ones(gains.shape, bool)):
        values = saliency_map(gains, -gains, allowed)
        best = values.max(axis=(1, 2))

        pair, found = best_two(tf.constant(gains, tf.float32), allowed)

        np.testing.assert_array_equal(found, best > 0)
        taken = values[np.arange(30), pair.numpy()[:, 0], pair.numpy()[:, 1]]
        np.testing.assert_allclose(taken[found], best[found], rtol=1e-6)
