import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks.losses import check_loss, logits_under_loss

LABELS = [0, 1, 2, 3, 2]
LOGITS = np.array(
    [
        [2.0, 1.0, 0.5, -1.0],  # right
        [2.0, 1.0, 0.5, -1.0],  # wrong
        [0.1, 0.2, 0.3, 0.4],
        [-5.0, 7.0, 6.9, 6.0],
        [0.0, 0.0, 9.0, -9.0],  # two rivals alike: the first counts
    ]
)
RIVALS = [1, 0, 3, 1, 0]


def cross_entropy_gradient(scale: float) -> np.ndarray:
    logits = tf.constant((LOGITS * scale).astype(np.float32))
    labels = tf.constant(LABELS, tf.int64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        seen = logits_under_loss(tf.identity, labels, "margin")(logits)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, seen)
    return tape.gradient(loss, logits).numpy()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 50.0, 1e4, 1e8, 1e30])
def test_the_margin_has_its_own_gradient_direction_at_any_scale(scale: float) -> None:
    gradient = cross_entropy_gradient(scale)

    # What grows the loss takes the given class down and its rival up, alike.
    expected = np.zeros_like(LOGITS)
    expected[range(5), LABELS] = -1
    expected[range(5), RIVALS] = 1
    size = np.abs(gradient).max(axis=1, keepdims=True)
    assert np.isfinite(gradient).all()
    assert (size > 0).all()
    np.testing.assert_allclose(gradient / size, expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_the_margins_gradient_never_vanishes_beside_its_logits(scale: float) -> None:
    gradient = np.abs(cross_entropy_gradient(scale)).max(axis=1)
    span = (LOGITS.max() - LOGITS.min()) * scale
    assert (gradient > 0.1 / span).all()


def test_a_tie_has_a_gradient_too() -> None:
    logits = tf.zeros((1, 3))
    labels = tf.constant([1], tf.int64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        seen = logits_under_loss(tf.identity, labels, "margin")(logits)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, seen)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.sign(gradient).tolist() == [[1, -1, 0]]
    assert np.isfinite(gradient).all()


def test_the_cross_entropy_looks_at_the_logits_themselves() -> None:
    def logits(images: tf.Tensor) -> tf.Tensor:
        return images

    seen = logits_under_loss(logits, tf.constant([0], tf.int64), "cross_entropy")

    # The same object, so that what was traced for it is used again.
    assert seen is logits


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"cross_entropy.*margin.*loss='dlr'"):
        check_loss("dlr")
    check_loss("margin")
