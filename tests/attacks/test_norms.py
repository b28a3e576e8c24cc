import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks.norms import L2, LINF


def images(*values: float) -> tf.Tensor:
    return tf.constant(values, tf.float32)[None, None, :, None]


def flat(tensor: tf.Tensor) -> list[float]:
    return tensor.numpy().reshape(-1).tolist()


def test_a_linf_step_is_the_sign() -> None:
    assert flat(LINF.step(images(3, -1e-30, 0))) == [1, -1, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_an_l2_step_has_length_one_at_any_scale(scale: float) -> None:
    step = L2.step(images(3 * scale, 0, -4 * scale))
    np.testing.assert_allclose(flat(step), [0.6, 0, -0.8], rtol=1e-6)


def test_an_l2_step_along_nothing_is_none() -> None:
    assert flat(L2.step(images(0, 0))) == [0, 0]


def test_each_image_has_its_own_length() -> None:
    step = L2.step(tf.concat([images(1, 0), images(0, 100)], 0)).numpy()
    np.testing.assert_allclose(step.reshape(2, 2), np.eye(2))


def test_the_linf_ball_is_a_box_within_the_pixels_range() -> None:
    clean = images(0.5, 0.5, 0.1, 0.9)
    moved = images(0.9, 0.45, -1, 2)
    inside = LINF.project(moved, clean, tf.constant(0.2))
    np.testing.assert_allclose(flat(inside), [0.7, 0.45, 0, 1], rtol=1e-6)


def test_the_l2_ball_draws_back_along_the_way() -> None:
    clean = images(0.5, 0.5)
    inside = L2.project(images(0.8, 0.9), clean, tf.constant(0.25))
    np.testing.assert_allclose(flat(inside), [0.65, 0.7], rtol=1e-6)
    np.testing.assert_allclose(
        flat(L2.project(images(0.6, 0.6), clean, tf.constant(0.25))), [0.6, 0.6]
    )
    assert flat(L2.project(clean, clean, tf.constant(0.25))) == flat(clean)


def test_the_l2_ball_ends_at_the_pixels_range() -> None:
    inside = L2.project(images(1.3, 0.5), images(0.9, 0.5), tf.constant(0.3))
    assert flat(inside) == [1.0, 0.5]
