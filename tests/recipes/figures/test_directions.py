import numpy as np
import pytest
import tensorflow as tf
from figures.attractions import figure_7a, find_ways, loss_cosines

from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from keras_traps.layers import QIMDecoder
from tests.recipes.figures.cases import decoder, images


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
        bits = tf.cast(tf.gather(layer.message_bits.value, classes), tf.float32)
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
    assert cosine["M"]["low"] > cosine["C"]["high"]
    assert abs(cosine["C"]["median"]) < 0.15
    assert numbers["overlap"] < 0.5
    assert 0.5 < numbers["in_basin"]["0.2"] <= numbers["in_basin"]["0.5"]
    assert numbers["steps_of_the_nearest"] == [3.0]
