"""BPDA: PGD past layers that have no gradient, or a useless one."""

import dataclasses
import typing
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_traps.attacks.gradient import PGD, Recipe
from keras_traps.attacks.loop import Logits
from keras_traps.attacks.model_checks import changed_calls, check_differentiable
from keras_traps.models.inference import inference_function, inner_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class BPDA(PGD):
    """Backward pass differentiable approximation: PGD on an approximated gradient.

    The forward pass is the model's own; the backward pass takes the layers in `through`
    for the identity (Athalye et al., 2018). Without any these are PGD's steps, from its
    starts: the attractor paper does not say what was replaced in its model.
    """

    # Names of layers, also of a model inside the model, which keep their input's shape.
    through: Sequence[str] = ()
    name = "BPDA"
    # The model may have none; the approximation is checked where it is made.
    needs_gradient = False
    note = "Takes the layers in `through` for the identity; without them it is PGD."

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.through, str) or not all(
            isinstance(name, str) for name in self.through
        ):
            raise TypeError(
                "Invalid value for argument `through`. Expected a sequence of names. "
                f"Received: through={self.through!r}"
            )
        # Equal whether read from a file or written in Python.
        object.__setattr__(self, "through", tuple(self.through))

    def _recipe(self) -> Recipe:
        infer = StraightThrough(self.through)
        return dataclasses.replace(super()._recipe(), infer=infer)


@dataclasses.dataclass(frozen=True)
class StraightThrough:
    """Makes of a model a function whose gradient takes some layers for the identity."""

    layers: Sequence[str]

    def __call__(self, model: keras.Model) -> Logits:
        """Returns it for any batch size; it does not keep the model alive."""
        if not self.layers:
            check_differentiable(model)
            return inference_function(model)
        names = dict.fromkeys(layer.name for layer in inner_layers(model))
        if unknown := [name for name in self.layers if name not in names]:
            raise ValueError(
                "Invalid value for argument `through`. Expected names of layers of "
                f"{model.name!r}, which has {', '.join(names)}. Received: "
                f"{', '.join(unknown)}"
            )
        reference = weakref.ref(model)
        shape = (None, *model.input_shape[1:])

        @tf.function(
            input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False
        )
        def infer(images: tf.Tensor) -> tf.Tensor:
            # Only `model`'s owner can call this, so that it is still alive.
            alive = typing.cast(keras.Model, reference())
            named = (part for part in inner_layers(alive) if part.name in self.layers)
            with changed_calls(named, _with_its_inputs_gradient):
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


def _with_its_inputs_gradient(
    layer: keras.Operation, call: Callable[..., tf.Tensor]
) -> Callable[..., tf.Tensor]:
    def called(inputs: Any, *arguments: Any, **more: Any) -> tf.Tensor:
        outputs = call(inputs, *arguments, **more)
        same = tf.is_tensor(inputs) and tf.is_tensor(outputs)
        if not same or inputs.shape[1:] != outputs.shape[1:]:
            raise ValueError(
                "Invalid value for argument `through`. Expected layers that keep the "
                f"shape of their input. Received: {layer.name!r}"
            )
        # What is added is exactly 0.
        nothing = inputs - tf.stop_gradient(inputs)
        return tf.stop_gradient(outputs) + tf.cast(nothing, outputs.dtype)

    return called
