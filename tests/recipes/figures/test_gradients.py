import numpy as np
import pytest
import tensorflow as tf
from figures.gradients import (
    cosine,
    figure_5,
    gradient_norms,
    output_norms,
)

from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from tests.recipes.figures.cases import images, kernel, linear


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
    found = gradient_norms(sure, x, np.zeros(1, int))
    np.testing.assert_allclose(found, expected, 1e-5)


def test_the_cosine_of_rows_is_that_of_the_formula() -> None:
    a, b = images(2, shape=(7, 5)) - 0.5
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(cosine(tf.constant(a), b), expected, rtol=1e-5)
    np.testing.assert_allclose(cosine(tf.constant(1e-30 * a), b), expected, rtol=1e-4)
    assert np.isnan(cosine(tf.zeros(5), tf.ones(5)))


def test_figure_5_has_the_norms_of_outputs_and_gradients(
    defence: Defence, digits_test: Dataset
) -> None:
    few = digits_test.take(60)
    numbers = figure_5(defence, few).numbers
    logits = np.abs(defence.classifier(few.images).numpy()).sum(axis=1)
    w = defence.trapped.get_layer("qim_decoder")(few.images).numpy()
    apart = np.abs(w - w.mean(axis=1, keepdims=True)).sum(axis=1)
    for name, norms in (("classifier", logits), ("decoder_apart", apart)):
        found = numbers["output"][name]["median"]
        np.testing.assert_allclose(found, np.median(norms), 1e-4)
    larger = (logits > np.abs(w).sum(axis=1)).mean()
    assert numbers["output_larger_in_c"] == larger
    gradient = numbers["gradient"]
    assert gradient["decoder"]["median"] > gradient["classifier"]["low"] > 0
