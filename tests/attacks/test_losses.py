import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks.losses import Loss, check_loss, rivals_lead

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


def gradient_of_the_lead(scale: float, loss: Loss = "margin") -> np.ndarray:
    logits = tf.constant((LOGITS * scale).astype(np.float32))
    labels = tf.constant(LABELS, tf.int64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = rivals_lead(logits, labels, loss)
    return tape.gradient(value, logits).numpy()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 50.0, 1e4, 1e8, 1e30])
def test_the_margins_gradient_is_the_same_at_any_scale(scale: float) -> None:
    gradient = gradient_of_the_lead(scale)

    # What grows the loss takes the given class down and its rival up, alike.
    expected = np.zeros_like(LOGITS)
    expected[range(5), LABELS] = -1
    expected[range(5), RIVALS] = 1
    np.testing.assert_array_equal(gradient, expected)


def test_a_tie_has_a_gradient_too() -> None:
    logits = tf.zeros((1, 3))
    labels = tf.constant([1], tf.int64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = rivals_lead(logits, labels, "margin")
    gradient = tape.gradient(loss, logits).numpy()
    assert np.sign(gradient).tolist() == [[1, -1, 0]]
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 10.0, 30.0, 1e4])
def test_the_cross_entropy_has_its_own_gradient_direction_at_any_scale(
    scale: float,
) -> None:
    gradient = gradient_of_the_lead(scale, "cross_entropy")

    # p minus one at the given class, which is minus the sum of the rivals' p.
    exact = np.exp((LOGITS - LOGITS.max(axis=1, keepdims=True)) * scale)
    rivals = np.where(np.arange(4) == np.array(LABELS)[:, None], 0, exact)
    kept = rivals.sum(axis=1, keepdims=True) > 0
    rivals /= np.where(kept, rivals.sum(axis=1, keepdims=True), 1)
    rivals[range(5), LABELS] = -1
    size = np.abs(gradient).max(axis=1, keepdims=True)
    assert (size > 0).all()
    np.testing.assert_allclose(
        (gradient / size)[kept[:, 0]], rivals[kept[:, 0]], atol=1e-4
    )


def test_a_sure_model_has_the_true_classs_part_of_the_gradient() -> None:
    # One minus the probability is 0 in float32 from a margin of about 17 on.
    lead = rivals_lead(
        tf.constant([[40.0, 0.0, 0.0]]), tf.constant([0]), "cross_entropy"
    )
    np.testing.assert_allclose(lead, [np.log(2) - 40], rtol=1e-6)


def test_the_lead_is_the_logit_of_the_cross_entropy() -> None:
    logits = tf.constant(LOGITS.astype(np.float32))
    labels = tf.constant(LABELS, tf.int64)
    lead = rivals_lead(logits, labels, "cross_entropy")
    given = LOGITS[range(5), LABELS]
    expected = np.log(np.exp(LOGITS).sum(axis=1)) - given
    np.testing.assert_allclose(np.log1p(np.exp(lead)), expected, rtol=1e-4)


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"cross_entropy.*margin.*loss='dlr'"):
        check_loss("dlr")
    check_loss("margin")
