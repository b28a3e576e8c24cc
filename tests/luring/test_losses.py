from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.luring.losses import cross_entropy, luring_loss, margin_loss

# One row an image: the answer leads, is behind, and ties.
LOGITS = np.array([[5.0, 1.0, 2.0], [1.0, 4.0, -2.0], [3.0, 3.0, 0.0]], np.float32)
ANSWER = np.array([0, 0, 0])
RUNNER_UP = np.array([1, 2, 2])


def test_the_luring_loss_is_the_closed_form() -> None:
    # Hinge 0, z_c - z_b = 4; hinge 4 - 1 = 3, z_c - z_b = 3; hinge 0, z_c - z_b = 3.
    for weight in (1.0, 0.15):
        loss = luring_loss(LOGITS, ANSWER, RUNNER_UP, weight)
        expected = [0 - 4 * weight, 3 - 3 * weight, 0 - 3 * weight]
        np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_runner_up_is_that_of_the_target_and_not_of_the_lured_model() -> None:
    """In the text of equation 1 the two letters are swapped."""
    logits = tf.constant([[5.0, 1.0, 4.0]])
    # 2 is ahead of 1 for the lured model; the target ranks 1 second.
    np.testing.assert_allclose(luring_loss(logits, [0], [1], 1.0), [-4.0])


def test_the_alternative_takes_the_lured_models_own_runner_up() -> None:
    np.testing.assert_allclose(margin_loss(LOGITS, ANSWER), [-3.0, 3.0, 0.0])


def test_the_cross_entropy_is_the_closed_form() -> None:
    logits = tf.constant([[0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(cross_entropy(logits, [2]), [np.log(4.0)], rtol=1e-6)
    np.testing.assert_allclose(cross_entropy([[200.0, 0.0]], [1]), [200.0])


@pytest.mark.parametrize("function", [luring_loss, margin_loss])
def test_the_gradient_is_finite_at_the_kink_and_far_out(
    function: Callable[..., tf.Tensor],
) -> None:
    logits = tf.constant([[3.0, 3.0, 3.0], [1e6, -1e6, 0.0]])
    arguments = ([0, 1], [1, 2]) if function is luring_loss else ([0, 1],)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = function(logits, *arguments)
    gradient = tape.gradient(loss, logits)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_half_precision_logits_give_a_float32_loss() -> None:
    logits = tf.constant(LOGITS, tf.float16)
    for loss in (
        luring_loss(logits, ANSWER, RUNNER_UP),
        margin_loss(logits, ANSWER),
        cross_entropy(logits, ANSWER),
    ):
        assert loss.dtype == tf.float32
