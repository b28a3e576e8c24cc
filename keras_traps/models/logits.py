"""Logits of classifiers that end in a softmax."""

import keras
import tensorflow as tf

from keras_traps.models.outputs import AttackedOutput


def logits_model(model: keras.Model, output: AttackedOutput) -> keras.Model:
    """Returns a model of the logits, for losses that must not saturate.

    In float32 a sure softmax is exactly 1 and its gradient exactly 0: an attack on it
    looks weak where the classifier is not strong. The softmax is therefore taken off.

    Args:
        model: A built classifier.
        output: What it returns.

    Returns:
        `model` itself where it returns logits or scores. Else a model that shares its
        layers but the last, or, where the last layer is not known to be a softmax, one
        that returns the logarithm of the probabilities. A last `Dense` layer is copied:
        make the model anew after training on.
    """
    if output != "probabilities":
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
        logits = _LogProbabilities(name="log_probabilities", dtype="float32")(
            model.outputs[0]
        )
    return keras.Model(model.inputs[0], logits, name=f"logits_of_{model.name}")


class _LogProbabilities(keras.layers.Layer):
    """log p, with a gradient that stays finite where p is 0."""

    def call(self, probabilities: tf.Tensor) -> tf.Tensor:
        return tf.math.log(tf.maximum(probabilities, 1e-30))


def _is_softmax(layer: keras.layers.Layer, kind: type[keras.layers.Layer]) -> bool:
    return isinstance(layer, kind) and layer.activation is keras.activations.softmax
