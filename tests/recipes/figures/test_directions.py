import itertools

import numpy as np
import pytest
import tensorflow as tf
from figures.directions import Scale, basin_share, figure_7a, find_ways, loss_cosines
from figures.gradients import scores_of, soft_label_loss

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
    layer: QIMDecoder, x: np.ndarray, scale: Scale
) -> tuple[np.ndarray, int, float]:
    """Way, class and step of the nearest attractor of one image."""
    bits, steps = layer.message_bits.numpy(), layer.pixel_steps.numpy()
    sizes = (3.0, 128.0) if scale == "nearest" else (scale,)
    found = []
    for (k, message), size in itertools.product(enumerate(bits), sizes):
        way = np.array(
            [
                move(255.0 * level, bit, step) if size == step else 0.0
                for level, bit, step in zip(x.ravel(), message, steps, strict=True)
            ]
        )
        found.append((float(np.linalg.norm(way)), k, size, way))
    _, best, size, way = min(found, key=lambda entry: entry[0])
    return way / 255.0, best, float(size)


@pytest.mark.parametrize("scale", ["nearest", 3.0, 128.0])
def test_the_nearest_attractor_is_the_one_that_brute_force_finds(scale: Scale) -> None:
    layer = decoder()
    x = np.concatenate([images(12), np.round(images(8, seed=1))])
    ways, classes, steps = (
        found.numpy() for found in find_ways(layer, tf.constant(x), scale=scale)
    )
    for i, image in enumerate(x):
        way, best, step = brute_force(layer, image, scale)
        np.testing.assert_allclose(ways[i], way, atol=2e-6)
        assert (classes[i], steps[i]) == (best, step)


def test_a_step_size_that_the_decoder_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \(3.0, 128.0\). Received: scale=5"):
        find_ways(decoder(), tf.constant(images(2)), scale=5.0)


def test_the_cosine_is_one_where_the_loss_falls_straight_to_the_attractor() -> None:
    layer, x = decoder(), images(15)
    found = find_ways(layer, tf.constant(x))
    ends = x + found.ways.numpy().reshape(x.shape)

    def loss(batch: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        matches = tf.equal(batch[:, None], tf.constant(x)[None])
        row = tf.argmax(tf.reduce_all(matches, axis=[2, 3, 4]), axis=1)
        way = batch - tf.gather(ends, row)
        return tf.reduce_sum(way**2, axis=[1, 2, 3])

    result = loss_cosines(layer, [loss, lambda *of: -loss(*of)], x)
    np.testing.assert_allclose(result.plain, [[1, -1]] * 15, atol=1e-6)
    # No pixel of these images lies at an end of the range.
    np.testing.assert_allclose(result.feasible, result.plain, atol=1e-6)
    np.testing.assert_array_equal(result.steps, found.steps)
    # Grey levels up to 255 are rounded by 8e-6, which is 3e-8 of the range: of image
    # and end, in either graph, on six pixels.
    expected = np.linalg.norm(found.ways, axis=1)
    np.testing.assert_allclose(result.distances, expected, atol=3e-7)


def test_what_leaves_the_range_does_not_count_as_feasible() -> None:
    # Black pixels: a message of bits 0 lies above them, one of bits 1 below.
    layer = decoder(steps=(3.0,), step_weights=(1.0,))
    x = np.zeros((1, 2, 3, 1), np.float32)

    def loss(batch: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        bits = tf.cast(tf.gather(layer.message_bits.value, classes), tf.float32)
        return tf.reduce_sum(tf.reshape(batch, (-1, 6)) * (2 * bits - 1), axis=1)

    result = loss_cosines(layer, [loss], x)
    bits = layer.message_bits.numpy()[find_ways(layer, tf.constant(x)).classes[0]]
    assert 0 < bits.sum() < 6
    assert result.feasible[0, 0] == pytest.approx(1, abs=1e-6)
    assert result.plain[0, 0] == pytest.approx(np.sqrt(1 - bits.mean()), abs=1e-6)


def test_a_loss_without_a_gradient_has_no_cosine() -> None:
    result = loss_cosines(decoder(), [lambda x, t: tf.zeros(tf.shape(t))], images(3))
    assert np.isnan(result.plain).all()


def test_images_without_a_direction_are_in_no_basin() -> None:
    cosines = np.array([1.0, 0.5, 0.49, np.nan], np.float32)
    assert basin_share(cosines, 0.5) == 0.5
    assert basin_share(cosines, 0.0) == 0.25
    assert basin_share(cosines, 2.0) == 0.75


def test_w_points_to_attractors_and_c_does_not(
    defence: Defence, digits_test: Dataset
) -> None:
    layer = defence.trapped.get_layer("qim_decoder")
    losses = [
        soft_label_loss(of) for of in (scores_of(defence.classifier, "logits"), layer)
    ]
    result = loss_cosines(layer, losses, digits_test.images[:100])
    c, w = np.median(result.feasible, axis=0)
    assert w > 0.8
    assert abs(c) < 0.15
    assert set(result.steps) == {3.0}


def test_figure_7a_has_the_cosines_of_c_and_of_m(
    defence: Defence, digits_test: Dataset
) -> None:
    few = digits_test.take(60)
    result = figure_7a(defence, few)
    loss = soft_label_loss(scores_of(defence.trapped, "scores"))
    layer = defence.trapped.get_layer("qim_decoder")
    expected = loss_cosines(layer, [loss], few.images)
    numbers = result.numbers
    assert (result.name, numbers["images"]) == ("figure7a_digits", 60)
    for key, of in (
        ("cosine", expected.feasible),
        ("cosine_with_infeasible", expected.plain),
    ):
        median = float(np.nanmedian(of))
        assert numbers[key]["M"]["median"] == pytest.approx(median, abs=1e-5)
    assert numbers["cosine"]["M"]["low"] > numbers["cosine"]["C"]["high"]
    assert numbers["overlap"] < 0.5
    assert numbers["in_basin"]["0.5"] >= numbers["in_basin"]["0.2"]
    assert numbers["steps_of_the_nearest"] == [3.0]
