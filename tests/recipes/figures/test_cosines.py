import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attractors.analysis import (
    AttractorSearch,
    both_answers,
    density_cosines,
    loss_cosines,
    nearest_attractors,
    scores_of,
    soft_label_loss,
)
from keras_traps.attractors.analysis.cosines import cosine
from keras_traps.datasets import Dataset
from tests.attractors.analysis.cases import decoder, images


def test_the_cosine_is_one_where_the_loss_falls_straight_to_the_attractor() -> None:
    layer, x = decoder(), images(15)
    found = nearest_attractors(layer, x)

    def loss(batch: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        matches = tf.equal(batch[:, None], tf.constant(x)[None])
        row = tf.argmax(tf.reduce_all(matches, axis=[2, 3, 4]), axis=1)
        way = batch - tf.gather(found.images, row)
        return tf.reduce_sum(way**2, axis=[1, 2, 3])

    result = loss_cosines(
        layer, {"to": loss, "away": lambda *a: -loss(*a)}, x, batch_size=4
    )
    np.testing.assert_allclose(result.cosines["to"], 1, atol=1e-6)
    np.testing.assert_allclose(result.cosines["away"], -1, atol=1e-6)
    # No pixel of these images lies at an end of the range.
    np.testing.assert_allclose(result.feasible["to"], 1, atol=1e-6)
    np.testing.assert_array_equal(result.classes, found.classes)
    np.testing.assert_allclose(result.distances, found.distances, rtol=1e-6)


def test_what_leaves_the_range_does_not_count_as_feasible() -> None:
    # Black pixels: a message of bits 0 lies above them, one of bits 1 below.
    layer, x = decoder(steps=(3.0,), step_weights=(1.0,)), np.zeros((1, 2, 3, 1))

    def loss(batch: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        bits = tf.cast(tf.gather(layer.message_bits.value, classes), tf.float32)
        return tf.reduce_sum(tf.reshape(batch, (-1, 6)) * (2 * bits - 1), axis=1)

    result = loss_cosines(layer, {"J": loss}, x.astype(np.float32))
    bits = layer.message_bits.numpy()[result.classes[0]]
    assert 0 < bits.sum() < 6
    assert result.feasible["J"] == pytest.approx(1, abs=1e-6)
    assert result.cosines["J"] == pytest.approx(np.sqrt(1 - bits.mean()), abs=1e-6)


def test_a_loss_without_a_gradient_has_no_cosine() -> None:
    def flat(batch: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        return tf.zeros(tf.shape(classes))

    result = loss_cosines(decoder(), {"flat": flat}, images(3))
    assert np.isnan(result.cosines["flat"]).all()


def test_a_vanishing_gradient_keeps_its_direction() -> None:
    layer, x = decoder(), images(4)
    down = soft_label_loss(layer)
    result = loss_cosines(layer, {"J": down, "j": lambda *a: 1e-30 * down(*a)}, x)
    np.testing.assert_allclose(result.cosines["j"], result.cosines["J"], atol=1e-4)


def test_m_points_to_attractors_and_c_does_not(
    trapped: keras.Model, classifier: keras.Model, digits_test: Dataset
) -> None:
    losses = {
        "C": soft_label_loss(scores_of(classifier, "logits")),
        "W": soft_label_loss(trapped.get_layer("qim_decoder")),
    }
    result = loss_cosines(trapped, losses, digits_test.images[:100])
    assert np.median(result.feasible["W"]) > 0.8
    assert abs(np.median(result.cosines["C"])) < 0.15
    assert set(result.steps) == {3.0}


def test_a_density_that_rises_to_the_attractor_has_a_high_cosine() -> None:
    layer, x = decoder(), images(4)
    search = AttractorSearch(scale="whole")
    found = nearest_attractors(layer, x, search=search)
    ways = (found.images - x).reshape(4, 6)

    def scores(points: tf.Tensor) -> tf.Tensor:
        # Class t of the nearest example wins in the half-space of its attractor.
        flat = tf.reshape(points, (-1, 1, 6))
        row = tf.argmin(tf.norm(flat - x.reshape(1, 4, 6), axis=2), axis=1)
        offset = flat[:, 0] - tf.gather(x.reshape(4, 6), row)
        lead = tf.reduce_sum(offset * tf.gather(ways, row), axis=1, keepdims=True)
        own = tf.one_hot(tf.gather(found.classes, row), 3)
        towards = own * lead
        return tf.stack([towards, -towards], axis=1)

    result = density_cosines(
        layer, scores, x, delta=0.01, samples=4000, search=search, batch_size=500
    )
    assert result.cosines.shape == (4, 2)
    assert (result.cosines[:, 0] > 0.98).all()
    assert (result.cosines[:, 1] < -0.98).all()
    np.testing.assert_allclose(result.hits, 0.5, atol=0.05)
    np.testing.assert_array_equal(result.classes, found.classes)


def test_a_class_that_is_never_met_has_no_cosine(trapped: keras.Model) -> None:
    x = images(3, shape=(8, 8, 1))
    result = density_cosines(trapped, both_answers(trapped), x, delta=1e-4, samples=8)
    assert result.cosines.shape == result.hits.shape == (3, 2)
    constant = (result.hits == 0) | (result.hits == 1)
    assert constant.any()
    assert np.isnan(result.cosines[constant]).all()


def test_a_result_holds_one_number_per_image() -> None:
    layer, x = decoder(), images(50)
    result = loss_cosines(layer, {"J": soft_label_loss(layer)}, x)
    found = (result.cosines["J"], result.feasible["J"], result.classes, result.steps)
    assert all(array.shape == (50,) for array in (*found, result.distances))


def test_the_cosine_of_rows_is_that_of_the_formula() -> None:
    a, b = images(2, shape=(7, 5)) - 0.5
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(cosine(tf.constant(a), b), expected, rtol=1e-5)


def test_wrong_arguments_are_refused(classifier: keras.Model) -> None:
    with pytest.raises(ValueError, match="argument `losses`"):
        loss_cosines(decoder(), {}, images(2))
    with pytest.raises(ValueError, match="without a QIM decoder"):
        loss_cosines(classifier, {"J": soft_label_loss(classifier)}, images(2))
    for shape in ((4,), (6,)):
        with pytest.raises(ValueError, match=r"images of shape \(batch, 2, 3, 1\)"):
            density_cosines(
                decoder(), decoder(), images(2, shape=shape), delta=1, samples=9
            )
    with pytest.raises(ValueError, match=r"images of shape \(batch, 2, 3, 1\)"):
        loss_cosines(decoder(), {}, images(2, shape=(3, 2, 1)))
