from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from figures.attractions import density_cosines, density_gradient, figure_7b, find_ways
from figures.gradients import Scores, map_batches
from scipy.special import betainc

from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from tests.recipes.figures.cases import SHAPE, decoder, images, kernel, linear

DELTA, PIXELS = 0.5, 6
MIDDLE = np.full((1, *SHAPE), 0.5, np.float32)


def one(scores: Scores) -> Scores:
    """The same as the only one of several models."""
    return lambda batch: scores(batch)[:, tf.newaxis]


def estimate(
    scores: Scores, x: FloatArray, t: Any, *, samples: int, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Gradients `(images, models, pixels)` and hits, over a whole array."""
    graph = density_gradient(scores, SHAPE, delta=DELTA, samples=samples, seed=seed)
    ids = np.arange(len(x))
    gradients, hits = map_batches(graph, x, np.asarray(t), ids, batch_size=32)
    return gradients.reshape(*hits.shape, PIXELS), hits


def half_space(offset: float) -> tuple[Scores, FloatArray]:
    """Class 1 wins beyond a plane at `offset` from the middle, and where that lies."""
    normal = np.array([2.0, -1.0, 0.5, 0.0, 1.0, -0.5], np.float32)
    normal /= np.linalg.norm(normal)
    table = np.stack([np.zeros(PIXELS, np.float32), normal], axis=1)
    bias = np.array([0.0, -normal.sum() / 2 - offset], np.float32)
    return one(linear(table, bias)), normal


def slope_beyond(offset: float) -> float:
    """How fast the share of the ball beyond a plane changes, from its closed form."""

    def share(offset: float) -> float:
        t = offset / DELTA
        tail = 0.5 * float(betainc((PIXELS + 1) / 2, 0.5, 1 - t * t))
        return tail if t >= 0 else 1 - tail

    # Moving x by h moves the plane by -h.
    h = 1e-4
    return (share(offset - h) - share(offset + h)) / (2 * h)


@pytest.mark.parametrize("offset", [-0.2, 0.0, 0.3])
def test_the_gradient_is_that_of_the_density_within_its_error(offset: float) -> None:
    scores, normal = half_space(offset)
    n = 40_000
    gradients, hits = estimate(scores, MIDDLE, [1], samples=n)
    slope, p = slope_beyond(offset), float(hits[0, 0])
    # The sum of variances that the figure's page tells.
    error = np.sqrt(((PIXELS / DELTA) ** 2 * p * (1 - p) - slope**2) / n)
    assert error < 0.1 * slope
    assert np.linalg.norm(gradients[0, 0] - slope * normal) < 2.5 * error


def test_an_estimate_depends_on_no_other_image_or_model() -> None:
    x, t = images(40), np.arange(40) % 3
    first, second = linear(kernel(seed=4)), linear(kernel(seed=5))
    whole, hits = estimate(one(first), x, t, samples=270)
    few, _ = estimate(one(first), x[:5], t[:5], samples=270)
    assert few.tolist() == whole[:5].tolist()
    both, _ = estimate(
        lambda batch: tf.stack([second(batch), first(batch)], axis=1), x, t, samples=270
    )
    np.testing.assert_allclose(both[:, 1], whole[:, 0], atol=1e-4)
    met = ((hits > 0) & (hits < 1))[:, 0]
    assert met.sum() > 20
    assert len(np.unique(whole[met, 0], axis=0)) == met.sum()
    other, _ = estimate(one(first), x, t, samples=270, seed=1)
    assert (other[met] != whole[met]).any(axis=2).all()


def test_a_density_that_rises_to_the_attractor_has_a_high_cosine() -> None:
    layer, x = decoder(), images(4)
    ways, classes, _ = find_ways(layer, tf.constant(x))

    def scores(points: tf.Tensor) -> tf.Tensor:
        # Class t of the nearest example wins in the half-space of its attractor.
        flat = tf.reshape(points, (-1, 1, 6))
        row = tf.argmin(tf.norm(flat - x.reshape(1, 4, 6), axis=2), axis=1)
        offset = flat[:, 0] - tf.gather(x.reshape(4, 6), row)
        lead = tf.reduce_sum(offset * tf.gather(ways, row), axis=1, keepdims=True)
        towards = tf.one_hot(tf.gather(classes, row), 3) * lead
        return tf.stack([towards, -towards], axis=1)

    cosines, hits = density_cosines(layer, scores, x, delta=0.01, samples=4000)
    assert cosines.shape == (4, 2)
    assert (cosines[:, 0] > 0.98).all()
    assert (cosines[:, 1] < -0.98).all()
    np.testing.assert_allclose(hits, 0.5, atol=0.05)


def test_points_are_counted_once_and_images_without_a_hit_are_outside(
    defence: Defence, digits_test: Dataset
) -> None:
    # 300 points do not fill the second draw.
    always = linear(np.zeros((PIXELS, 3), np.float32), np.array([0, 1, 0], np.float32))
    gradients, hits = estimate(one(always), MIDDLE, [1], samples=300)
    assert hits.tolist() == [[1.0]]
    np.testing.assert_allclose(gradients, 0, atol=1e-4)
    few = digits_test.take(40)
    numbers = figure_7b(defence.trapped, few, delta=0.01, samples=50, seed=1).numbers
    # So near, nearly every image has one answer all around it.
    assert numbers["M"]["without"] > 0.5
    assert numbers["M"]["in_basin"] <= 1 - numbers["M"]["without"]
