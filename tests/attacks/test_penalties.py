import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks.penalties import hinge
from keras_traps.attacks.success import fooled

LOGITS = np.array([[3, 1, 2], [1, 3, 2], [2, 2, 1]], np.float32)


def pay(
    logits: npt.NDArray[np.float32], label: int, targeted: bool, confidence: float = 0.0
) -> tf.Tensor:
    labels = tf.fill([len(logits)], tf.constant(label, tf.int64))
    return hinge(
        tf.constant(logits), labels, tf.constant(targeted), tf.constant(confidence)
    )


def test_towards_a_class_it_is_the_lead_of_the_best_other() -> None:
    paid = pay(LOGITS, 0, targeted=True)
    np.testing.assert_allclose(paid, [0, 2, 0], atol=1e-4)


def test_away_from_a_class_it_is_its_own_lead() -> None:
    paid = pay(LOGITS, 0, targeted=False)
    np.testing.assert_allclose(paid, [1, 0, 0], atol=1e-4)


def test_confidence_is_added() -> None:
    paid = pay(LOGITS, 0, targeted=True, confidence=1.5)
    np.testing.assert_allclose(paid, [0.5, 3.5, 1.5], atol=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("targeted", [True, False])
def test_it_is_zero_where_the_attack_counts_as_a_success_only(
    targeted: bool, scale: float
) -> None:
    near = np.array([[1, 1 + 1e-6], [1 + 1e-6, 1], [1, 1.001], [1.001, 1]], np.float32)
    logits = near * np.float32(scale)
    success = fooled(
        tf.constant(logits), tf.zeros(4, tf.int64), tf.constant(targeted)
    ).numpy()
    assert 0 < success.sum() < 4
    np.testing.assert_array_equal(pay(logits, 0, targeted).numpy() == 0, success)


@pytest.mark.parametrize("targeted", [True, False])
def test_it_is_above_zero_where_all_logits_are_zero(targeted: bool) -> None:
    paid = pay(np.zeros((2, 3), np.float32), 0, targeted)
    assert (paid.numpy() > 0).all()


def test_its_gradient_is_the_difference_of_two_logits() -> None:
    logits = tf.constant([[3.0, 1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        paid = hinge(
            logits, tf.constant([1], tf.int64), tf.constant(True), tf.constant(0.0)
        )
    np.testing.assert_array_equal(tape.gradient(paid, logits), [[1, -1, 0]])
