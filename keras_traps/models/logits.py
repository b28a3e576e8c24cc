"""Logits of classifiers that end in a softmax."""

import keras
import tensorflow as tf

from keras_traps.models.outputs import Output


def logits_model(model: keras.Model, output: Output) -> keras.Model:
    """Returns a model of the logits, for losses that must not saturate.

    In float32 a sure softmax is exactly 1 and its gradient exactly 0: an attack on it
    looks weak where the classifier is not strong. The softmax is therefore taken off.

    Args:
        model: A built classifier.
        output: What it returns.

    Returns:
        `model` itself where it returns logits. Else a model that shares its layers but
        the last, or, where the last layer is not known to be a softmax, one that
        returns the logarithm of the probabilities. A last `Dense` layer is copied: make
        the model anew after training on.
    """
    if output == "logits":
        return model
    last = model.layers[-1]
    if isinstance(last, keras.layers.Softmax) or _is_softmax(
        last, keras.layers.Activation
    ):
        logits = last.input
    elif _is_softmax(last, keras.layers.Dense):
        config = {**last.get_config(), "activation": "linear"}
        linear = keras.layers.Dense.from_config(config)
        logits = linear(last.input)
        linear.set_weights(last.get_weights())
    else:
        logits = _LogProbabilities(name="log_probabilities")(model.output)
    return keras.Model(model.input, logits, name=f"logits_of_{model.name}")


class _LogProbabilities(keras.layers.Layer):
    """log p, with a gradient that stays finite where p is 0."""

    def call(self, probabilities: tf.Tensor) -> tf.Tensor:
        tiny = probabilities.dtype.as_numpy_dtype(1e-30)
        return tf.math.log(tf.maximum(probabilities, tiny))


def _is_softmax(layer: keras.layers.Layer, kind: type[keras.layers.Layer]) -> bool:
    return isinstance(layer, kind) and layer.activation is keras.activations.softmax
