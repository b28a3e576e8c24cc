"""Logits of classifiers that end in a softmax."""

from typing import Any

import keras
import tensorflow as tf

from keras_traps.models.graphs import as_graph, is_its_graph
from keras_traps.models.outputs import AttackedOutput
from keras_traps.models.per_model import PerModel

_models: PerModel[keras.Model] = PerModel()


class TellsLogits:
    """A kind of model whose `call` hides its softmax, and that takes it off itself."""

    def to_logits(self) -> keras.Model:
        """Returns a model of the logits that shares the layers of this one."""
        # Not by `abc`: Keras makes instances of the bases of functional models.
        raise NotImplementedError


def logits_model(model: keras.Model, output: AttackedOutput) -> keras.Model:
    """Returns a model of the logits, for losses that must not saturate.

    In float32 a sure softmax is exactly 1 and its gradient exactly 0: an attack on it
    looks weak where the classifier is not strong. The softmax is therefore taken off.

    Args:
        model: A built classifier.
        output: What it returns.

    Returns:
        `model` itself where it returns logits or scores. Else a model that shares its
        layers, also where the softmax is the last layer of a functional or sequential
        model that is its last layer. A model of a class with a `call` of its own is not
        looked into and not let go again; a lured classifier tells its logits itself.
        Where no softmax is found it returns the logarithm of the probabilities. The
        same one at every call, until the model has other layers or weights.
    """
    if output != "probabilities":
        return model
    return _models.get(model, lambda: _without_softmax(model))


def _without_softmax(model: keras.Model) -> keras.Model:
    # By its class: others may have a layer of that name.
    if isinstance(model, TellsLogits):
        return model.to_logits()
    graph = as_graph(model, name=f"logits_of_{model.name}")
    # A layer's own `input` is that of its first call, which may be in another model; a
    # model's is where it begins itself.
    last, index, _ = graph.outputs[0]._keras_history
    call = last._inbound_nodes[index]
    # A subclass may compute something else.
    if type(last) is keras.layers.Softmax or _is_softmax(last, keras.layers.Activation):
        logits = call.input_tensors[0]
    elif (
        _is_softmax(last, keras.layers.Dense)
        # Quantized, the kernel is no longer what inputs are multiplied by.
        and last.quantization_mode is None
    ):
        logits = _Linear(last, name=last.name)(call.input_tensors[0])
    elif is_its_graph(last) and len(last.outputs) == 1:
        # A classifier behind preprocessing.
        inner = _without_softmax(last)
        logits = inner(*call.arguments.args, **call.arguments.kwargs)
    else:
        logits = _LogProbabilities(name="log_probabilities", dtype="float32")(
            graph.outputs[0]
        )
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
    """log p, with a gradient that stays finite where p is 0.

    Behind a softmax in half precision it may exceed that precision where p is small.
    """

    def call(self, probabilities: tf.Tensor) -> tf.Tensor:
        return tf.math.log(tf.maximum(probabilities, 1e-30))


def _is_softmax(layer: keras.layers.Layer, kind: type[keras.layers.Layer]) -> bool:
    return type(layer) is kind and layer.activation is keras.activations.softmax
