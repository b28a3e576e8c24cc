"""Logits of classifiers that end in a softmax."""

from typing import Any

import keras
import tensorflow as tf

from keras_traps._checks import Bounds
from keras_traps.models.forms import standard_form, two_columns
from keras_traps.models.inference import PerModel, as_graph, inner_layers, is_its_graph
from keras_traps.models.outputs import AttackedOutput

# The axis of the classes, as a softmax may have it.
_CLASSES = (-1, 1, [-1], [1], (-1,), (1,))

# Functions of logits that an `activation` may be.
_FUNCTIONS = (keras.activations.softmax, keras.ops.softmax, tf.nn.softmax)


# The class, of no public name, that `keras.ops.softmax` puts into a graph.
_image = keras.Input((2,))
_SOFTMAX = type(keras.Model(_image, keras.ops.softmax(_image)).operations[-1])

_models: PerModel[keras.Model] = PerModel()


class TellsLogits:
    """A kind of model whose `call` hides its softmax, and that takes it off itself."""

    def to_logits(self) -> keras.Model:
        """Returns a model of the logits that shares the layers of this one."""
        # Not by `abc`: Keras makes instances of the bases of functional models.
        raise NotImplementedError


SMALLEST = 1e-30
"""Where no softmax is found, smaller probabilities count as this one."""


def logits_model(model: keras.Model, output: AttackedOutput) -> keras.Model:
    """Returns a model of the logits: its softmax, where there is one, is taken off.

    In float32 a sure softmax is exactly 1 and its gradient 0: attacks on it look weak.
    """
    if output != "probabilities":
        return model
    return _models.get(model, lambda: _without_softmax(model))


def attacked_form(
    model: keras.Model, output: AttackedOutput, bounds: Bounds
) -> keras.Model:
    """Returns what an attack follows: logits, or scores, in `standard_form`."""
    kind: AttackedOutput = "logits" if output == "probabilities" else output
    return standard_form(logits_model(model, output), kind, bounds)


def is_logarithm(logits: keras.Model) -> bool:
    """Tells whether a softmax was not found, so that a sure answer has no gradient."""
    return any(isinstance(layer, _LogProbabilities) for layer in inner_layers(logits))


def _without_softmax(model: keras.Model) -> keras.Model:
    # By its class: others may have a layer of that name.
    if isinstance(model, TellsLogits):
        return model.to_logits()
    graph = as_graph(model, name=f"logits_of_{model.name}")
    # Sorted by depth: before what has one input comes what that is made by.
    last = next(one for one in reversed(graph.operations) if not _is_linear(one))
    linear = _linear(last)
    if linear is None:
        answers = graph.outputs[0]
        if answers.shape[-1] == 1:
            answers = two_columns(answers, "probabilities")
        logarithm = _LogProbabilities(name="log_probabilities", dtype="float32")
        return keras.Model(graph.inputs[0], logarithm(answers), name=graph.name)
    return keras.models.clone_model(
        graph, clone_function=lambda layer: linear if layer is last else layer
    )


def _linear(last: keras.Operation) -> keras.layers.Layer | None:
    """Returns what takes the place of a layer with a softmax; `None` for any other."""
    # A subclass of a known layer may compute something else.
    kind = type(last)
    if kind in (keras.layers.Softmax, _SOFTMAX):
        return _Before(name=last.name) if last.axis in _CLASSES else None
    if kind is keras.layers.Activation and _squashes(last):
        return _Before(name=last.name)
    if kind is keras.layers.Dense and _squashes(last):
        # Quantized, the kernel is no longer what inputs are multiplied by.
        known = last.quantization_mode is None
        return _BeforeDense(last, name=last.name) if known else None
    if is_its_graph(last) and len(last.outputs) == 1:
        # A classifier behind preprocessing.
        return _without_softmax(last)
    return None


def _is_linear(operation: keras.Operation) -> bool:
    if type(operation) is keras.layers.Activation:
        return operation.activation is keras.activations.linear
    return type(operation) is keras.layers.Identity


def _is_softmax(activation: Any) -> bool:
    if type(activation) is keras.layers.Softmax:
        return activation.axis in _CLASSES
    return any(activation is function for function in _FUNCTIONS)


def _squashes(layer: keras.layers.Layer) -> bool:
    # Several sigmoids are of classes that do not exclude each other.
    is_one = layer.output.shape[-1] == 1
    is_sigmoid = is_one and layer.activation is keras.activations.sigmoid
    return is_sigmoid or _is_softmax(layer.activation)


class _Before(keras.layers.Layer):
    """What a softmax is given, in the precision that it had."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        return inputs if mask is None else tf.where(mask, inputs, inputs.dtype.min)


class _BeforeDense(keras.layers.Layer):
    """A dense layer before its activation, with the same weights."""

    def __init__(self, dense: keras.layers.Dense, **kwargs: Any) -> None:
        super().__init__(dtype=dense.dtype_policy, **kwargs)
        self.dense = dense
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        products = tf.matmul(inputs, tf.cast(self.dense.kernel, inputs.dtype))
        if not self.dense.use_bias:
            return products
        return products + tf.cast(self.dense.bias, inputs.dtype)


class _LogProbabilities(keras.layers.Layer):
    """log p, with a gradient that stays finite, and is 0, where p is 0."""

    def call(self, probabilities: tf.Tensor) -> tf.Tensor:
        return tf.math.log(tf.maximum(probabilities, SMALLEST))
