"""M∘P for an attacker who knows that P's last sigmoid saturates."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_traps.layers import LuringInput

SOFTNESS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
"""How much flatter the sigmoid is that the attacker tries; 1 is P's own."""


def soften(augmented: keras.Model, softness: float) -> keras.Model:
    """Makes M∘P a model with the same answers and a gradient that does not vanish.

    P ends in a sigmoid. Trained long, it returns pixels near 0 and 1, where the slope
    of a sigmoid is nearly 0: what is made on M∘P by its own gradient may fail for that
    alone. Here the gradient goes through `sigmoid(z / softness)` in place of
    `sigmoid(z)`, but for the factor `1 / softness`, which no attack that takes the sign
    of a gradient, or divides by its size, can see.

    Args:
        augmented: M∘P, with a `LuringInput` of a preset in it.
        softness: At least 1; 1 leaves the gradient as it is.

    Returns:
        A model that shares the weights of M and P.

    Raises:
        ValueError: If there is no such layer in it, or one whose network was brought.
    """
    if not _has_lure(augmented):
        raise ValueError(
            "Invalid value for argument `augmented`. Expected a model with a "
            f"`LuringInput` in it. Received: {augmented.name!r}"
        )

    def softer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, LuringInput):
            return _SoftLure(layer, softness)
        if isinstance(layer, keras.Model) and _has_lure(layer):
            return keras.models.clone_model(layer, clone_function=softer)
        return layer

    return keras.models.clone_model(augmented, clone_function=softer)


def _has_lure(model: keras.Model) -> bool:
    return any(
        isinstance(layer, LuringInput)
        or (isinstance(layer, keras.Model) and _has_lure(layer))
        for layer in model.layers
    )


class _SoftLure(keras.layers.Layer):
    """P with another gradient."""

    def __init__(self, lure: LuringInput, softness: float) -> None:
        super().__init__(name=lure.name, autocast=False)
        self.until_sigmoid = lure.until_sigmoid()
        self.softness = softness
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        z = tf.cast(self.until_sigmoid(images, training=False), tf.float32)
        return tf.ensure_shape(_soft_sigmoid(z, self.softness), z.shape)

    def compute_output_spec(self, images: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(images.shape, "float32")


@tf.function(
    input_signature=[tf.TensorSpec(None, tf.float32), tf.TensorSpec((), tf.float32)],
    autograph=False,
)
def _soft_sigmoid(z: tf.Tensor, softness: tf.Tensor) -> tf.Tensor:
    # A graph of its own, traced once: TensorFlow registers each trace of a custom
    # gradient for ever, with the graph that it is in, and with that the model.
    @tf.custom_gradient
    def sigmoid(z: tf.Tensor) -> tuple[tf.Tensor, object]:
        flat = tf.sigmoid(z / softness)
        return tf.sigmoid(z), lambda upstream: upstream * flat * (1.0 - flat)

    return sigmoid(z)
