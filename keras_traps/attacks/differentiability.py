"""Whether a model has a gradient that an attack can follow."""

from typing import Any

import keras
import tensorflow as tf

from keras_traps.models.graphs import as_graph, is_its_graph


def check_differentiable(model: keras.Model) -> None:
    """Refuses a model whose output has no gradient with respect to its input.

    Args:
        model: A built model with one input and one output.

    Raises:
        ValueError: If the gradient is `None`; the message names the first layer behind
            which it is, also in a model within the model, where these tell their
            layers.
    """
    image = tf.fill((1, *model.input_shape[1:]), 0.5)
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = model(image, training=False)
    if tape.gradient(output, image) is None:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model with a gradient. "
            f"Received: {model.name!r}, whose gradient is None"
            f"{_culprit(model, image)}. An attack that needs none is SPSA."
        )


def _culprit(model: keras.Model, image: tf.Tensor, within: str = "") -> str:
    if not is_its_graph(model):
        return ""
    graph = as_graph(model, name=model.name)
    # A layer's own `output` is that of its first call, which may be in another model,
    # and a model's is where it ends itself: the calls of this model are looked at.
    for call in _calls(graph):
        with tf.GradientTape() as tape:
            tape.watch(image)
            outputs = _values(graph, call.output_tensors, image)
        if tape.gradient(outputs, image) is None:
            return _culprit_within(graph, call, image) or _name(call.operation, within)
    return ""


def _culprit_within(graph: keras.Model, call: Any, image: tf.Tensor) -> str:
    """Looks into a model that is a layer; one of many inputs is named as a whole."""
    if len(call.input_tensors) > 1:
        return ""
    (inputs,) = _values(graph, call.input_tensors, image)
    return _culprit(call.operation, inputs, within=f" within {call.operation.name!r}")


def _calls(graph: keras.Model) -> list[Any]:
    """Returns the calls of layers and operations in their order, but for the input."""
    depths = sorted(graph._nodes_by_depth.items(), reverse=True)
    return [call for _, calls in depths for call in calls if not call.is_input]


def _values(
    graph: keras.Model, tensors: list[keras.KerasTensor], image: tf.Tensor
) -> list[tf.Tensor]:
    """Returns those of a graph's tensors that can have a gradient, for one image."""
    values = keras.Model(graph.inputs[0], tensors)(image, training=False)
    return [value for value in tf.nest.flatten(values) if value.dtype.is_floating]


def _name(operation: keras.Operation, within: str) -> str:
    kind = "layer" if isinstance(operation, keras.layers.Layer) else "operation"
    return f" from {kind} {operation.name!r}{within} on"
