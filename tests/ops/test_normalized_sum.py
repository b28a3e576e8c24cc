from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.ops import normalized_sum

ORDERS = [1, 2, np.inf]


def value_and_gradient(total: Any, order: float, mode: str = "eager") -> Any:
    def run(c: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(c)
            result = normalized_sum(c, tf.zeros_like(c), order)
            picked = tf.reduce_sum(result * tf.range(1.0, result.shape[1] + 1))
        return result, tape.gradient(picked, c)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    return [t.numpy() for t in run(tf.constant(total, tf.float32))]


@pytest.mark.parametrize("order", ORDERS)
def test_it_is_equation_2(order: float) -> None:
    c, w = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)
    result = normalized_sum(c, w, order).numpy()
    total = c.astype(np.float64) + w
    norm = np.linalg.norm(total, ord=order, axis=1, keepdims=True)
    np.testing.assert_allclose(result, total / norm, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(result, ord=order, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_sum_of_0_stays_0_with_a_finite_gradient(order: float, mode: str) -> None:
    rows = [[0.0, 0.0, 0.0], [1.0, 0.0, -3.0]]
    result, gradient = value_and_gradient(rows, order, mode)
    np.testing.assert_array_equal(result[0], 0)
    assert np.isfinite(gradient).all()
    # The other row does not notice.
    alone, its_gradient = value_and_gradient(rows[1:], order, mode)
    np.testing.assert_allclose(result[1:], alone, rtol=1e-6)
    np.testing.assert_allclose(gradient[1:], its_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_sum_does_not_matter(scale: float, order: float) -> None:
    expected, slope = value_and_gradient([[3.0, -4.0, 1.0]], order)
    result, gradient = value_and_gradient([[3 * scale, -4 * scale, scale]], order)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient * scale, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_is_the_slope(order: float) -> None:
    total = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)
    _, gradient = value_and_gradient(total, order)

    def picked(t: Any) -> Any:
        return t @ np.arange(1, 5) / np.linalg.norm(t, ord=order, axis=1)

    shifts = 1e-6 * np.eye(4)
    wide = total.astype(np.float64)
    slope = [(picked(wide + d) - picked(wide - d))[0] / 2e-6 for d in shifts]
    np.testing.assert_allclose(gradient[0], slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtype_is_that_of_the_inputs(dtype: str) -> None:
    c = tf.cast([[600.0, 200.0]], dtype)
    result = normalized_sum(c, tf.zeros_like(c), 2)
    assert result.dtype == dtype
    np.testing.assert_allclose(
        tf.cast(result, tf.float64), [[0.9486833, 0.3162278]], rtol=1e-2
    )


@pytest.mark.parametrize("order", [3, float("nan"), True])
def test_another_norm_is_refused(order: float) -> None:
    with pytest.raises(ValueError, match=r"argument `ord`.*Expected 1, 2 or infinity"):
        normalized_sum(tf.zeros((1, 2)), tf.zeros((1, 2)), order)
