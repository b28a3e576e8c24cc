"""Whether a model has a gradient that an attack can follow."""

import keras
import tensorflow as tf


def check_differentiable(model: keras.Model) -> None:
    """Refuses a model whose output has no gradient with respect to its input.

    Args:
        model: A built model with one input and one output.

    Raises:
        ValueError: If the gradient is `None`; the message names the first layer behind
            which it is, where the model tells its layers.
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


def _culprit(model: keras.Model, image: tf.Tensor) -> str:
    for layer in model.layers:
        try:
            part = keras.Model(model.inputs, layer.output)
        except (AttributeError, ValueError):  # not a layer of a functional model
            continue
        with tf.GradientTape() as tape:
            tape.watch(image)
            outputs = tf.nest.flatten(part(image, training=False))
        if all(gradient is None for gradient in _gradients(tape, outputs, image)):
            return f" from layer {layer.name!r} on"
    return ""


def _gradients(
    tape: tf.GradientTape, outputs: list[tf.Tensor], image: tf.Tensor
) -> list[tf.Tensor | None]:
    # A tape gives the gradient of a list as one sum.
    differentiable = [output for output in outputs if output.dtype.is_floating]
    return [tape.gradient(differentiable, image)] if differentiable else [None]
