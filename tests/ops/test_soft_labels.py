from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ops

LOGITS = np.random.default_rng(0).normal(0, 3, (40, 6)).astype(np.float32)
BELOW_HALF = float(np.nextafter(np.float32(0.5), np.float32(0)))


def softmax(logits: Any) -> Any:
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def of_highest(highest: float, classes: int) -> Any:
    """Soft labels of probabilities of which the first is the highest."""
    rest = (1 - highest) / (classes - 1)
    shares = np.array([[highest] + [rest] * (classes - 1)], np.float32)
    return ops.soft_labels(shares, from_logits=False).numpy()[0]


@pytest.mark.parametrize(
    ("highest", "classes", "share"),
    [
        # These borders and their quotients are exact in float32.
        (0.5, 2, 0.525),
        (0.75, 2, 0.775),
        (1.0, 2, 0.975),
        (0.96, 2, 0.975),
        (0.25, 10, 0.275),
        (BELOW_HALF, 10, 0.475),
        (0.5, 10, 0.525),
        (0.72, 10, 0.725),
        # The middle of a step is not above the others' part of it.
        (1 / 3, 3, 1 / 3 + 0.025),
        (1 / 10, 10, 0.125),
        (1 / 11, 11, 1 / 11 + 0.025),
        (1 / 30, 30, 1 / 30 + 0.025),
        (1 / 1000, 1000, 0.05),
        (0.03, 1000, 0.05),
    ],
)
def test_the_best_class_has_the_middle_of_its_step(
    highest: float, classes: int, share: float
) -> None:
    result = of_highest(highest, classes)
    np.testing.assert_allclose(result[0], share, rtol=1e-6)
    np.testing.assert_allclose(result[1:], (1 - share) / (classes - 1), rtol=1e-5)


@pytest.mark.parametrize("classes", [*range(2, 45), 1000])
def test_the_best_class_remains_the_best_and_near_its_probability(classes: int) -> None:
    # From a tie of all classes to one that is sure.
    highest = np.linspace(1 / classes, 1, 200)[:, np.newaxis]
    rest = np.repeat((1 - highest) / (classes - 1), classes - 1, axis=1)
    shares = np.hstack([highest, rest]).astype(np.float32)
    result = ops.soft_labels(shares, from_logits=False).numpy()
    assert (result[:, 0] > result[:, 1:].max(axis=1) + 0.02).all()
    # The least label is 0.05, which of very many classes is far above a tie's.
    apart = 0.0251 if classes <= 40 else 0.05
    np.testing.assert_allclose(result[:, :1], highest, rtol=0, atol=apart)
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-5)


def test_a_tie_goes_to_the_first_of_the_best() -> None:
    result = ops.soft_labels(np.array([[1.0, 3.0, 3.0], [0.0] * 3]))
    assert np.argmax(result, axis=1).tolist() == [1, 0]


def test_logits_give_what_their_probabilities_give() -> None:
    expected = ops.soft_labels(softmax(LOGITS), from_logits=False)
    result = ops.soft_labels(LOGITS)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert (np.argmax(result, axis=1) == LOGITS.argmax(axis=1)).all()
    np.testing.assert_allclose(
        np.max(result, axis=1), softmax(LOGITS).max(axis=1), atol=0.025
    )


@pytest.mark.parametrize("from_logits", [True, False])
def test_they_have_no_slope(from_logits: bool) -> None:
    answers = tf.constant(LOGITS if from_logits else softmax(LOGITS), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(answers)
        result = ops.soft_labels(answers, from_logits=from_logits)
        lead = tf.reduce_sum(result * tf.range(6.0))
    gradient = tape.gradient(lead, answers)
    assert gradient is None or not np.any(gradient)


@pytest.mark.parametrize("from_logits", [True, False])
def test_what_is_not_a_number_is_not_hidden(from_logits: bool) -> None:
    answers = np.eye(3, dtype=np.float32)
    answers[answers == 1] = np.nan
    assert np.isnan(ops.soft_labels(answers, from_logits=from_logits)).all()


def test_extreme_answers_are_sure() -> None:
    for answers, from_logits in (([[1e30, -1e30]], True), ([[1.0, 1e-45]], False)):
        result = ops.soft_labels(np.array(answers, np.float32), from_logits=from_logits)
        np.testing.assert_allclose(result, [[0.975, 0.025]], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_they_are_float32(dtype: str) -> None:
    answers = tf.cast(LOGITS, dtype)
    result = ops.soft_labels(answers)
    assert result.dtype == tf.float32
    expected = ops.soft_labels(tf.cast(answers, tf.float32))
    np.testing.assert_array_equal(result, expected)
