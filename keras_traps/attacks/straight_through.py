"""Models whose gradient passes by some of their layers."""

import contextlib
import dataclasses
import typing
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_traps.attacks.differentiability import check_differentiable
from keras_traps.attacks.losses import Logits
from keras_traps.models.inference import inference_function
from keras_traps.models.inner_layers import inner_layers


@dataclasses.dataclass(frozen=True)
class StraightThrough:
    """Makes of a model a function whose gradient takes some layers for the identity.

    The answers are the model's own; so is the gradient, except that it goes through
    the named layers as if they had returned their input.

    Args:
        layers: Names of layers that keep the shape of their input, in the model or in
            a model that it contains; a model may be named too. May be empty.
    """

    layers: tuple[str, ...]

    def __call__(self, model: keras.Model) -> Logits:
        """Compiles it, for any batch size.

        Args:
            model: A built model with one input.

        Returns:
            A function from a float32 batch to the model's output, float32. It does not
            keep the model alive.

        Raises:
            ValueError: If the model has no layer of such a name, one of them changes
                the shape, or there is no gradient none the less.
        """
        if not self.layers:
            check_differentiable(model)
            return inference_function(model)
        self._check(model)
        reference = weakref.ref(model)
        shape = (None, *model.input_shape[1:])

        @tf.function(
            input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False
        )
        def infer(images: tf.Tensor) -> tf.Tensor:
            # Only `model`'s owner can call this, so that it is still alive.
            alive = typing.cast(keras.Model, reference())
            with _passed_by(self._named(alive)):
                return tf.cast(alive(images, training=False), tf.float32)

        image = tf.fill((1, *model.input_shape[1:]), 0.5)
        with tf.GradientTape() as tape:
            tape.watch(image)
            output = infer(image)
        if tape.gradient(output, image) is None:
            raise ValueError(
                "Invalid value for argument `through`. Expected all layers of "
                f"{model.name!r} that have no gradient. Received: "
                f"through={self.layers}, with which it is None still"
            )
        return infer

    def _named(self, model: keras.Model) -> list[keras.layers.Layer]:
        return [layer for layer in inner_layers(model) if layer.name in self.layers]

    def _check(self, model: keras.Model) -> None:
        names = dict.fromkeys(layer.name for layer in inner_layers(model))
        if unknown := [name for name in self.layers if name not in names]:
            raise ValueError(
                "Invalid value for argument `through`. Expected names of layers of "
                f"{model.name!r}, which has {', '.join(names)}. Received: "
                f"{', '.join(unknown)}"
            )


@contextlib.contextmanager
def _passed_by(layers: list[keras.layers.Layer]) -> Iterator[None]:
    """Lets gradients pass by these layers, for as long as a model is traced."""
    for layer in layers:
        # Beside Keras' own bookkeeping of attributes, and gone afterwards.
        vars(layer)["call"] = _with_its_inputs_gradient(layer.name, layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["call"]


def _with_its_inputs_gradient(
    name: str, call: Callable[..., tf.Tensor]
) -> Callable[..., tf.Tensor]:
    def called(inputs: Any, *arguments: Any, **more: Any) -> tf.Tensor:
        outputs = call(inputs, *arguments, **more)
        same = tf.is_tensor(inputs) and tf.is_tensor(outputs)
        if not same or inputs.shape[1:] != outputs.shape[1:]:
            raise ValueError(
                "Invalid value for argument `through`. Expected layers that keep the "
                f"shape of their input. Received: {name!r}"
            )
        # What is added is exactly 0.
        nothing = inputs - tf.stop_gradient(inputs)
        return tf.stop_gradient(outputs) + tf.cast(nothing, outputs.dtype)

    return called
