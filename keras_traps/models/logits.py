"""Logits of classifiers that end in a softmax."""

from typing import Any

import keras
import tensorflow as tf

from keras_traps.models.graphs import as_graph, is_its_graph
from keras_traps.models.inner_layers import inner_layers
from keras_traps.models.outputs import AttackedOutput
from keras_traps.models.per_model import PerModel
from keras_traps.models.softmax import before_tail, has_softmax, is_softmax

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
    """Returns a model of the logits, for losses that must not saturate.

    In float32 a sure softmax is exactly 1 and its gradient exactly 0: an attack on it
    looks weak where the classifier is not strong. The softmax is therefore taken off.

    Args:
        model: A built classifier.
        output: What it returns.

    Returns:
        `model` itself where it returns logits or scores. Else a model that shares its
        layers, also where the softmax is the last of a functional or sequential model
        that is its last layer. Behind it there may be what leaves its values as they
        are, such as a cast. A model of a class with a `call` of its own is not looked
        into and not let go again; a lured classifier tells its logits itself.
        Where no softmax is found it returns the logarithm of the probabilities. The
        same one at every call, until the model has other layers or weights.
    """
    if output != "probabilities":
        return model
    return _models.get(model, lambda: _without_softmax(model))


def is_logarithm(logits: keras.Model) -> bool:
    """Tells whether a softmax was not found, so that a sure answer has no gradient.

    Args:
        logits: What `logits_model` made of a model of probabilities.

    Returns:
        Whether it is the logarithm of the probabilities.
    """
    return any(isinstance(layer, _LogProbabilities) for layer in inner_layers(logits))


def _without_softmax(model: keras.Model) -> keras.Model:
    # By its class: others may have a layer of that name.
    if isinstance(model, TellsLogits):
        return model.to_logits()
    graph = as_graph(model, name=f"logits_of_{model.name}")
    # A layer's own `input` is that of its first call, which may be in another model; a
    # model's is where it begins itself.
    answers = graph.outputs[0]
    last, index, _ = before_tail(answers)._keras_history
    call = last._inbound_nodes[index]
    if is_softmax(last, call):
        logits = call.input_tensors[0]
    elif (
        # A subclass may compute something else.
        type(last) is keras.layers.Dense
        and has_softmax(last, len(call.input_tensors[0].shape))
        # Quantized, the kernel is no longer what inputs are multiplied by.
        and last.quantization_mode is None
    ):
        logits = _Linear(last, name=last.name)(call.input_tensors[0])
    elif is_its_graph(last) and len(last.outputs) == 1:
        # A classifier behind preprocessing.
        inner = _without_softmax(last)
        logits = inner(*call.arguments.args, **call.arguments.kwargs)
    else:
        logits = _LogProbabilities(name="log_probabilities", dtype="float32")(answers)
    if logits.shape != answers.shape:
        logits = keras.layers.Reshape(answers.shape[1:], dtype=logits.dtype)(logits)
    return keras.Model(graph.inputs[0], logits, name=graph.name)


class _Linear(keras.layers.Layer):
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
    """log p, with a gradient that stays finite, and is 0, where p is 0.

    Behind a softmax in half precision it may exceed that precision where p is small.
    """

    def call(self, probabilities: tf.Tensor) -> tf.Tensor:
        return tf.math.log(tf.maximum(probabilities, SMALLEST))
