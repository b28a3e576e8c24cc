import keras
import numpy as np
import pytest
import tensorflow as tf
from figures.gradients import (
    both_answers,
    cosine,
    figure_5,
    gradient_norms,
    map_batches,
    output_norms,
    scores_of,
    soft_label_loss,
)

from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from tests.attractors.conftest import least_squares_classifier
from tests.recipes.figures.cases import images, kernel, linear


def test_the_loss_is_the_cross_entropy() -> None:
    x, y = images(12), np.arange(12) % 3
    scores = linear(5 * kernel())
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(y, scores(x))
    loss = soft_label_loss(scores)(tf.constant(x), tf.constant(y))
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)


def test_probabilities_become_their_logits(
    linear_digits: keras.Model, digits_train: Dataset
) -> None:
    x = digits_train.images[:5]
    soft = least_squares_classifier(digits_train, "softmax")
    found = scores_of(soft, "probabilities")(x)
    np.testing.assert_allclose(found, linear_digits(x), rtol=1e-4, atol=1e-5)
    assert scores_of(linear_digits, "logits")(x).dtype == tf.float32


def test_both_answers_are_those_of_c_and_of_m(
    defence: Defence, digits_test: Dataset
) -> None:
    x = digits_test.images[:50]
    both = both_answers(defence.trapped)(x)
    assert both.shape == (50, 2, 10)
    expected = (defence.classifier(x).numpy().argmax(1), defence.trapped(x))
    np.testing.assert_allclose(tf.reduce_sum(both[:, 0], axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(both[:, 0].numpy().argmax(1), expected[0])
    np.testing.assert_allclose(both[:, 1], expected[1], atol=1e-6)


def test_a_linear_models_norms_are_those_of_the_formula() -> None:
    x, a = images(20), kernel()
    y = np.arange(20) % 3
    z = x.reshape(20, 6).astype(np.float64) @ a
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = np.abs((p - np.eye(3)[y]) @ a.T).sum(axis=1)
    np.testing.assert_allclose(gradient_norms(linear(a), x, y), expected, rtol=1e-5)
    norms = np.abs(z).sum(axis=1)
    np.testing.assert_allclose(output_norms(linear(a), x), norms, rtol=1e-5)


@pytest.mark.parametrize("lead", [20.0, 80.0, 1e4])
def test_a_gradient_keeps_its_digits_where_the_model_is_sure(lead: float) -> None:
    # One pixel, two classes: J' = -2 sigmoid(-2 lead x). p - 1 is 0 in float32 here.
    x = np.ones((1, 1), np.float32)
    sure = linear(np.array([[lead, 0.0]], np.float32))
    expected = lead * np.exp(-lead) / (1 + np.exp(-lead))
    np.testing.assert_allclose(
        gradient_norms(sure, x, np.zeros(1, int)), expected, 1e-5
    )


def test_the_cosine_of_rows_is_that_of_the_formula() -> None:
    a, b = images(2, shape=(7, 5)) - 0.5
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(cosine(tf.constant(a), b), expected, rtol=1e-5)
    np.testing.assert_allclose(cosine(tf.constant(1e-30 * a), b), expected, rtol=1e-4)
    assert np.isnan(cosine(tf.zeros(5), tf.ones(5)))


def test_batches_are_traced_once_and_put_together() -> None:
    shapes = []

    def double(batch: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        shapes.append(tuple(batch.shape))
        return 2 * batch, ids

    x = images(23)
    doubled, ids = map_batches(double, x, np.arange(23), batch_size=5)
    assert shapes == [(None, 2, 3, 1)]
    np.testing.assert_array_equal(doubled, 2 * x)
    np.testing.assert_array_equal(ids, np.arange(23))


def test_figure_5_has_the_norms_of_outputs_and_gradients(
    defence: Defence, digits_test: Dataset
) -> None:
    few = digits_test.take(60)
    result = figure_5(defence, few)
    output, gradient = result.numbers["output"], result.numbers["gradient"]
    logits = np.abs(defence.classifier(few.images).numpy()).sum(axis=1)
    np.testing.assert_allclose(output["classifier"]["median"], np.median(logits), 1e-5)
    w = defence.trapped.get_layer("qim_decoder")(few.images).numpy()
    apart = np.abs(w - w.mean(axis=1, keepdims=True)).sum(axis=1)
    np.testing.assert_allclose(
        output["decoder_apart"]["median"], np.median(apart), 1e-4
    )
    larger = float((logits > np.abs(w).sum(axis=1)).mean())
    assert result.numbers["output_larger_in_c"] == larger
    assert gradient["decoder"]["median"] > gradient["classifier"]["low"] > 0
