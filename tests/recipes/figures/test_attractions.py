from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from figures.attractions import (
    density_cosines,
    density_gradient,
    figure_7a,
    figure_7b,
    find_ways,
    loss_cosines,
)
from figures.gradients import Scores, map_batches
from scipy.special import betainc

from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from keras_traps.layers import QIMDecoder
from tests.recipes.figures.cases import SHAPE, decoder, images, kernel, linear


def move(level: float, bit: int, step: float) -> float:
    """The way of one pixel in grey levels, by trying every codeword."""
    endless = [step * (0.5 + bit + 2 * k) for k in range(-100, 101)]
    nearest = min(endless, key=lambda place: abs(place - level))
    return min(max(nearest, 0.0), 255.0) - level


def brute_force(
    layer: QIMDecoder, x: np.ndarray, only: float | None
) -> tuple[np.ndarray, int, float]:
    """Way, class and step of the nearest attractor of one image."""
    bits, steps = layer.message_bits.numpy(), layer.pixel_steps.numpy()
    found = []
    for k, message in enumerate(bits):
        way = np.array([*map(move, 255.0 * x.ravel(), message, steps)]) / 255.0
        for size in (only,) if only else (3.0, 128.0):
            part = np.where(steps == size, way, 0.0)
            found.append((float(np.linalg.norm(part)), k, size, part))
    _, best, size, way = min(found, key=lambda entry: entry[0])
    return way, best, size


@pytest.mark.parametrize("only", [None, 3.0, 128.0])
def test_the_nearest_attractor_is_the_one_that_brute_force_finds(
    only: float | None,
) -> None:
    layer = decoder()
    x = np.concatenate([images(12), np.round(images(8, seed=1))])
    ways, classes, steps = (
        found.numpy() for found in find_ways(layer, tf.constant(x), step=only)
    )
    for i, image in enumerate(x):
        way, best, step = brute_force(layer, image, only)
        np.testing.assert_allclose(ways[i], way, atol=2e-6)
        assert (classes[i], steps[i]) == (best, step)


def test_the_cosine_is_one_where_the_loss_falls_straight_to_the_attractor() -> None:
    layer, x = decoder(), images(15)
    ways, _, steps = find_ways(layer, tf.constant(x))
    ends = x + ways.numpy().reshape(x.shape)

    def loss(batch: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        matches = tf.equal(batch[:, None], tf.constant(x)[None])
        row = tf.argmax(tf.reduce_all(matches, axis=[2, 3, 4]), axis=1)
        way = batch - tf.gather(ends, row)
        return tf.reduce_sum(way**2, axis=[1, 2, 3])

    losses = [loss, lambda *of: -loss(*of), lambda x, t: tf.zeros(tf.shape(t))]
    plain, feasible, found, distances = loss_cosines(layer, losses, x)
    # Without a gradient there is no cosine.
    np.testing.assert_allclose(plain, [[1, -1, np.nan]] * 15, atol=1e-6)
    # No pixel of these images lies at an end of the range.
    np.testing.assert_allclose(feasible, plain, atol=1e-6)
    np.testing.assert_array_equal(found, steps)
    # Grey levels up to 255 are rounded by 8e-6, which is 3e-8 of the range: of image
    # and end, in either graph, on six pixels.
    np.testing.assert_allclose(distances, np.linalg.norm(ways, axis=1), atol=3e-7)


def test_what_leaves_the_range_does_not_count_as_feasible() -> None:
    # Black pixels: a message of bits 0 lies above them, one of bits 1 below.
    layer = decoder(3.0)
    x = np.zeros((1, 2, 3, 1), np.float32)

    def loss(batch: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        bits = tf.cast(tf.gather(layer.message_bits, classes), tf.float32)
        return tf.reduce_sum(tf.reshape(batch, (-1, 6)) * (2 * bits - 1), axis=1)

    plain, feasible, _, _ = loss_cosines(layer, [loss], x)
    bits = layer.message_bits.numpy()[find_ways(layer, tf.constant(x))[1][0]]
    assert 0 < bits.sum() < 6
    assert feasible[0, 0] == pytest.approx(1, abs=1e-6)
    assert plain[0, 0] == pytest.approx(np.sqrt(1 - bits.mean()), abs=1e-6)


def test_figure_7a_has_the_cosines_of_c_and_of_m(
    defence: Defence, digits_test: Dataset
) -> None:
    numbers = figure_7a(defence, digits_test.take(60)).numbers
    cosine, infeasible = numbers["cosine"], numbers["cosine_with_infeasible"]
    assert cosine["M"]["median"] > max(0.8, infeasible["M"]["median"])
    assert cosine["M"]["low"] > cosine["C"]["median"]
    assert abs(cosine["C"]["median"]) < 0.15
    assert numbers["overlap"] < 0.2
    assert 0.5 < numbers["in_basin"]["0.2"] <= numbers["in_basin"]["0.5"]
    assert numbers["steps_of_the_nearest"] == [3.0]


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
