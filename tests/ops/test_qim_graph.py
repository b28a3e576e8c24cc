"""What the ops look like as graphs, and how they take large batches."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ops

PIXELS, CLASSES = 6, 4


@pytest.fixture(params=["written", "by column"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "by column":
        monkeypatch.setattr("keras_traps.ops.qim._MOST_WRITTEN", 0)
    return str(request.param)


def secrets(pixels: int, classes: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    code = ops.draw_code((pixels,), classes, key=ops.Key.from_seed(0))
    steps, weights = rng.choice([3.0, 128.0], pixels), rng.uniform(0, 2, pixels)
    return (
        ops.qim_tables(code, steps, weights),
        tf.constant(-1e-3),
        tf.constant(-0.5),
        tf.constant(0.7),
    )


def images(count: int, pixels: int = PIXELS) -> tf.Tensor:
    rng = np.random.default_rng(1)
    return tf.constant(rng.uniform(0, 255, (count, pixels)), tf.float32)


def decode_and_gradient(x: tf.Tensor, held: tuple[Any, ...]) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        w = ops.qim_decode(x, *held)
        loss = tf.reduce_sum(w**2)
    return w, tape.gradient(loss, x)


def nodes(function: Any) -> Iterator[tuple[str, list[list[int]]]]:
    """Every op of a graph and of the functions it calls, with its output shapes."""
    graph = function.graph.as_graph_def(add_shapes=True)
    bodies = [graph.node, *(body.node_def for body in graph.library.function)]
    for body in bodies:
        for node in body:
            shapes = node.attr["_output_shapes"].list.shape
            yield node.op, [[dim.size for dim in shape.dim] for shape in shapes]


# Coprime, so that a product of sizes tells which axes it is made of.
@pytest.mark.parametrize("batch", [257, None])
def test_graph_holds_stock_ops_and_no_tensor_of_images_by_classes_by_pixels(
    batch: int | None, way: str
) -> None:
    pixels, classes = 131, 7
    held = secrets(pixels, classes)

    @tf.function(input_signature=[tf.TensorSpec((batch, pixels), tf.float32)])
    def run(x: tf.Tensor) -> Any:
        return decode_and_gradient(x, held)

    found = list(nodes(run.get_concrete_function()))
    assert {"MatMul", "Tanh"} <= {op for op, _ in found}
    assert ("GatherV2" in {op for op, _ in found}) == (way == "by column")
    for op, shapes in found:
        assert hasattr(tf.raw_ops, op), f"{op} is not stock"
        assert "PyFunc" not in op
        for shape in shapes:
            # The third axis would be that of the images, whether its size is known.
            assert not {pixels, classes} < set(shape) - {1, 2}, (op, shape)
            if batch is not None:
                assert np.prod(shape) < batch * pixels * classes, (op, shape)


def test_a_graph_of_unknown_batch_size_keeps_the_number_of_classes(way: str) -> None:
    for classes in (3, 9):
        held = secrets(PIXELS, classes)
        run = tf.function(lambda x, held=held: ops.qim_decode(x, *held))
        concrete = run.get_concrete_function(tf.TensorSpec((None, PIXELS), tf.float32))
        assert tuple(concrete.structured_outputs.shape) == (None, classes)


@pytest.mark.parametrize("count", [0, 600])
@pytest.mark.parametrize("mode", ["eager", "known", "unknown", "xla"])
def test_images_of_a_batch_do_not_depend_on_each_other(
    mode: str, count: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 200 images.
    monkeypatch.setattr("keras_traps.ops.qim._BLOCK", 250 * PIXELS)
    held = secrets(PIXELS, CLASSES)
    x = images(count)
    expected = [decode_and_gradient(part, held) for part in (x[:100], x[100:])]

    def run(batch: tf.Tensor) -> Any:
        return decode_and_gradient(batch, held)

    if mode == "known":
        run = tf.function(run)
    elif mode == "unknown":
        run = tf.function(
            run, input_signature=[tf.TensorSpec((None, PIXELS), tf.float32)]
        )
    elif mode == "xla":
        run = tf.function(run, jit_compile=True)
    w, gradient = run(x)
    assert w.shape == (count, CLASSES)
    assert gradient.shape == (count, PIXELS)
    np.testing.assert_allclose(
        w, tf.concat([part[0] for part in expected], axis=0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        gradient,
        tf.concat([part[1] for part in expected], axis=0),
        rtol=1e-3,
        atol=1e-8,
    )
