"""Where the softmax is that a model ends in."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Functions of logits that an `activation` may be.
_FUNCTIONS = (keras.activations.softmax, keras.ops.softmax, tf.nn.softmax)


def _operation(function: Callable[[Any], Any]) -> type[keras.Operation]:
    """Returns the class, of no public name, that a function puts into a graph."""
    last, _, _ = function(keras.Input((2,)))._keras_history
    return type(last)


_SOFTMAX = _operation(keras.ops.softmax)
_CAST = _operation(lambda values: keras.ops.cast(values, "float16"))
_RESHAPE = _operation(lambda values: keras.ops.reshape(values, (-1, 2)))


def before_tail(outputs: keras.KerasTensor) -> keras.KerasTensor:
    """Returns what outputs are before all that leaves their values as they are.

    Args:
        outputs: What a functional model returns, `(batch, num_classes)`.

    Returns:
        The same values, up to rounding. They may be in another precision, or have axes
        of size 1 between those of `outputs`.
    """
    while True:
        last, index, _ = outputs._keras_history
        call = last._inbound_nodes[index]
        if len(call.input_tensors) != 1 or not _keeps_values(last):
            return outputs
        (inputs,) = call.input_tensors
        if not (_is_float(inputs) and _is_float(outputs) and _fits(inputs, outputs)):
            return outputs
        outputs = inputs


def is_softmax(operation: keras.Operation, call: Any) -> bool:
    """Tells whether an operation is a plain softmax over the last axis.

    Args:
        operation: A layer, or an operation of `keras.ops`.
        call: The node of the graph in which it is called.

    Returns:
        Whether it is. A subclass of a known layer may compute something else.
    """
    rank = len(call.input_tensors[0].shape)
    if type(operation) is keras.layers.Activation:
        return has_softmax(operation, rank)
    if type(operation) is keras.layers.Softmax:
        arguments = call.arguments
        masked = len(arguments.args) > 1 or arguments.kwargs.get("mask") is not None
        return not masked and _is_last(operation.axis, rank)
    return type(operation) is _SOFTMAX and _is_last(operation.axis, rank)


def has_softmax(layer: keras.layers.Layer, rank: int) -> bool:
    """Tells whether a layer's activation is a softmax over the last axis.

    Args:
        layer: A layer with an `activation`.
        rank: How many axes what the activation is called on has.

    Returns:
        Whether it is.
    """
    activation = layer.activation
    if type(activation) is keras.layers.Softmax:
        return _is_last(activation.axis, rank)
    return any(activation is function for function in _FUNCTIONS)


def _is_last(axis: Any, rank: int) -> bool:
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        (axis,) = axis
    return axis in (-1, rank - 1)


def _keeps_values(operation: keras.Operation) -> bool:
    if type(operation) is keras.layers.Activation:
        return operation.activation is keras.activations.linear
    return type(operation) in (
        keras.layers.Identity,
        keras.layers.Flatten,
        keras.layers.Reshape,
        _RESHAPE,
        _CAST,
    )


def _is_float(values: keras.KerasTensor) -> bool:
    return bool(keras.backend.is_float_dtype(values.dtype))


def _fits(inputs: keras.KerasTensor, outputs: keras.KerasTensor) -> bool:
    """Whether the classes are on the last axis of both, with one row for each image."""
    return inputs.shape[-1] == outputs.shape[-1] and all(
        size == 1 for size in (*inputs.shape[1:-1], *outputs.shape[1:-1])
    )
