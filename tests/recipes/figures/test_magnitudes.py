import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attractors.analysis import gradient_norms, output_norms
from tests.attractors.analysis.cases import images, kernel, linear


def test_an_output_norm_is_the_sum_of_absolute_scores() -> None:
    x, a = images(9), kernel()
    expected = np.abs(x.reshape(9, 6) @ a).sum(axis=1)
    result = output_norms(linear(a), x, batch_size=4)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_a_linear_models_gradient_norm_is_that_of_the_formula() -> None:
    x, a = images(20), kernel()
    y = np.arange(20) % 3
    z = x.reshape(20, 6).astype(np.float64) @ a
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = np.abs((p - np.eye(3)[y]) @ a.T).sum(axis=1)
    result = gradient_norms(linear(a), x, y, batch_size=7)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("lead", [20.0, 40.0, 80.0])
def test_a_gradient_keeps_its_digits_where_the_model_is_sure(lead: float) -> None:
    # One pixel, two classes: J' = -2 sigmoid(-2 lead x). p - 1 is 0 in float32 here.
    x = np.ones((1, 1), np.float32)
    result = gradient_norms(linear(np.array([[lead, 0.0]], np.float32)), x, [0])
    expected = lead * np.exp(-lead) / (1 + np.exp(-lead))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_a_vanished_gradient_is_zero_and_not_nan() -> None:
    x = np.ones((1, 1), np.float32)
    steep = linear(np.array([[1e4, 0.0]], np.float32))
    assert gradient_norms(steep, x, [0]).tolist() == [0.0]


def test_a_model_is_traced_once_for_any_number_of_batches() -> None:
    calls = []

    def scores(batch: tf.Tensor) -> tf.Tensor:
        calls.append(tuple(batch.shape))
        return linear(kernel())(batch)

    output_norms(scores, images(23), batch_size=5)
    assert calls == [(None, 2, 3, 1)]


def test_images_and_labels_that_do_not_fit_are_refused() -> None:
    scores = linear(kernel())
    with pytest.raises(TypeError, match="argument `images`"):
        output_norms(scores, np.ones((2, *(2, 3, 1)), int))
    with pytest.raises(ValueError, match="at least one image"):
        output_norms(scores, images(0))
    with pytest.raises(ValueError, match="argument `labels`"):
        gradient_norms(scores, images(2), [0, 3])
    with pytest.raises(ValueError, match="argument `batch_size`"):
        output_norms(scores, images(2), batch_size=0)
