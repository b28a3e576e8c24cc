from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.ops import normalized_sum

ORDERS = [1, 2, np.inf]


def value_and_gradient(total: Any, ord: float, mode: str = "eager") -> Any:  # noqa: A002
    def run(c: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(c)
            result = normalized_sum(c, tf.zeros_like(c), ord)
            picked = tf.reduce_sum(result * tf.range(1.0, result.shape[1] + 1))
        return result, tape.gradient(picked, c)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    return [t.numpy() for t in run(tf.constant(total, tf.float32))]


@pytest.mark.parametrize("ord", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_equation_2(seed: int, ord: float) -> None:  # noqa: A002
    c, w = np.random.default_rng(seed).normal(size=(2, 6, 5)).astype(np.float32)
    result = normalized_sum(c, w, ord).numpy()
    total = c.astype(np.float64) + w
    norm = np.linalg.norm(total, ord=ord, axis=1, keepdims=True)
    np.testing.assert_allclose(result, total / norm, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(result, ord=ord, axis=1), 1, rtol=1e-6)


def test_the_norm_is_the_sum_of_magnitudes_by_default() -> None:
    result = normalized_sum(tf.constant([[0.75, -0.25]]), tf.constant([[0.0, -0.5]]))
    np.testing.assert_array_equal(result, [[0.5, -0.5]])


@pytest.mark.parametrize("ord", ORDERS)
def test_the_answer_is_that_of_the_sum(ord: float) -> None:  # noqa: A002
    c, w = np.random.default_rng(3).normal(size=(2, 50, 7)).astype(np.float32)
    result = normalized_sum(c, w, ord).numpy()
    np.testing.assert_array_equal(result.argmax(axis=1), (c + w).argmax(axis=1))


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("ord", ORDERS)
def test_a_sum_of_0_stays_0_with_a_finite_gradient(ord: float, mode: str) -> None:  # noqa: A002
    rows = [[0.0, 0.0, 0.0], [1.0, 0.0, -3.0]]
    result, gradient = value_and_gradient(rows, ord, mode)
    np.testing.assert_array_equal(result[0], 0)
    assert np.isfinite(gradient).all()
    # The other row does not notice.
    alone, its_gradient = value_and_gradient(rows[1:], ord, mode)
    np.testing.assert_array_equal(result[1:], alone)
    np.testing.assert_array_equal(gradient[1:], its_gradient)


@pytest.mark.parametrize("ord", ORDERS)
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_the_scale_of_the_sum_does_not_matter(scale: float, ord: float) -> None:  # noqa: A002
    expected, slope = value_and_gradient([[3.0, -4.0, 1.0]], ord)
    result, gradient = value_and_gradient([[3 * scale, -4 * scale, scale]], ord)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient * scale, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ord", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_the_slope(seed: int, ord: float) -> None:  # noqa: A002
    total = np.random.default_rng(seed).normal(size=(1, 4)).astype(np.float32)
    _, gradient = value_and_gradient(total, ord)

    def picked(t: Any) -> Any:
        return t @ np.arange(1, 5) / np.linalg.norm(t, ord=ord, axis=1)

    shifts = 1e-6 * np.eye(4)
    wide = total.astype(np.float64)
    slope = [(picked(wide + d) - picked(wide - d))[0] / 2e-6 for d in shifts]
    np.testing.assert_allclose(gradient[0], slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtype_is_that_of_the_inputs(dtype: str) -> None:
    c = tf.cast([[600.0, 200.0]], dtype)
    result = normalized_sum(c, tf.zeros_like(c), 2)
    assert result.dtype == dtype
    np.testing.assert_allclose(
        tf.cast(result, tf.float64), [[0.9486833, 0.3162278]], rtol=1e-2
    )


@pytest.mark.parametrize("ord", [0, 3, -1, 0.5, float("nan")])
def test_another_norm_is_refused(ord: float) -> None:  # noqa: A002
    with pytest.raises(ValueError, match=r"argument `ord`.*Expected 1, 2 or infinity"):
        normalized_sum(tf.zeros((1, 2)), tf.zeros((1, 2)), ord)
