from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ops

LOGITS = np.random.default_rng(0).normal(0, 3, (40, 6)).astype(np.float32)


def softmax(logits: Any) -> Any:
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.0])
def test_they_are_the_softmax_of_the_divided_logits(temperature: float) -> None:
    expected = softmax(LOGITS / temperature)
    result = ops.soft_labels(LOGITS, temperature)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 7.0])
def test_probabilities_give_what_their_logits_give(temperature: float) -> None:
    probabilities = softmax(LOGITS).astype(np.float32)
    result = ops.soft_labels(probabilities, temperature, from_logits=False)
    expected = ops.soft_labels(LOGITS, temperature)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-6)


def test_probabilities_of_temperature_1_stay_as_they_are_to_the_bit() -> None:
    probabilities = softmax(LOGITS).astype(np.float32)
    result = ops.soft_labels(probabilities, from_logits=False)
    np.testing.assert_array_equal(result, probabilities)


@pytest.mark.parametrize("from_logits", [True, False])
def test_values_and_gradients_are_finite_where_others_are_rounded_to_0(
    from_logits: bool,
) -> None:
    answers = tf.constant([[1.0, 0.0, 0.0], [1e-45, 1.0, 1e-30], [0.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(answers)
        result = ops.soft_labels(answers, 0.01, from_logits=from_logits)
        lead = tf.reduce_sum(result[:, 0] - result[:, 1])
    assert np.isfinite(result).all()
    assert np.isfinite(tape.gradient(lead, answers)).all()
    np.testing.assert_allclose(tf.reduce_sum(result, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_they_are_float32(dtype: str) -> None:
    answers = tf.cast(LOGITS, dtype)
    result = ops.soft_labels(answers, 0.5)
    assert result.dtype == tf.float32
    expected = softmax(np.asarray(tf.cast(answers, tf.float64)) / 0.5)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "temperature",
    [0.0, 1e-40, 1e8, float("nan"), "0.5", True, np.ones(2)],
)
def test_what_is_no_temperature_is_refused(temperature: Any) -> None:
    with pytest.raises(ValueError, match=r"argument `temperature`.*0\.0001 to 100"):
        ops.soft_labels(LOGITS, temperature)
