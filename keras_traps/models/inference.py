"""Batched inference with one trace per model, and what a model is made of."""

import math
import threading
import typing
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import keras
import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray, check_count

Made = TypeVar("Made")


# Keras makes a functional model of what `keras.Model` is called with.
_image = keras.Input((1,))
_KINDS = (type(keras.Model(_image, _image)), keras.Sequential)


# So many pixel values go through a model at once: 256 images of 64x64x3.
_VALUES = 256 * 64 * 64 * 3


def batch_size_for(shape: Sequence[int], most: int = 256) -> int:
    """Returns how many images at once, fewer where they are large."""
    return max(1, min(most, _VALUES // math.prod(shape)))


def predict(
    model: keras.Model, images: FloatArray, *, batch_size: int | None = None
) -> FloatArray:
    """Runs a model over images, batch by batch."""
    if batch_size is None:
        batch_size = batch_size_for(images.shape[1:])
    check_count("batch_size", batch_size)
    infer = inference_function(model)
    return np.concatenate(
        [
            infer(tf.constant(images[start : start + batch_size])).numpy()
            for start in range(0, len(images), batch_size)
        ]
    )


def inference_function(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the model as one `tf.function` for any batch size."""

    def make() -> Callable[[tf.Tensor], tf.Tensor]:
        # A strong reference here would keep the key, and so the entry, for ever.
        reference = weakref.ref(model)
        # A sequential model that was built by a call declares the batch size of it.
        shape = (None, *model.input_shape[1:])

        @tf.function(
            input_signature=[tf.TensorSpec(shape, tf.float32)],
            autograph=False,
        )
        def infer(images: tf.Tensor) -> tf.Tensor:
            # Only `model`'s owner can call this, so that it is still alive.
            alive = typing.cast(keras.Model, reference())
            # One that was made with lists answers with one.
            (answer,) = tf.nest.flatten(alive(images, training=False))
            return tf.cast(answer, tf.float32)

        # At once, under the lock.
        infer.get_concrete_function()
        return typing.cast(Callable[[tf.Tensor], tf.Tensor], infer)

    return _functions.get(model, make)


def inner_layers(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Lists the layers of a model, those of a model within it behind that."""
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from inner_layers(layer)


def is_its_graph(model: keras.layers.Layer) -> bool:
    """Tells whether all that a model does is in the graph of its layers."""
    kind = type(model)
    return any(
        isinstance(model, plain)
        and kind.call is plain.call
        and kind.__call__ is plain.__call__
        for plain in _KINDS
    )


def as_graph(model: keras.Model, *, name: str) -> keras.Model:
    """Returns a functional model that computes the same under another name."""
    if is_its_graph(model):
        return keras.Model(model.inputs[0], model.outputs[0], name=name)
    image = keras.Input(
        model.input_shape[1:], dtype=model.inputs[0].dtype, name=model.inputs[0].name
    )
    # A model that was made with lists answers with one.
    (answer,) = keras.tree.flatten(model(image))
    return keras.Model(image, answer, name=name)


TRACING = threading.RLock()
"""Held while a model is traced: two threads at once leave Keras' layers half built."""


class PerModel(Generic[Made]):
    """Keeps one thing for each model, as long as the model lives and stays as it is.

    What was traced of a model goes on computing what the model was. New values of its
    weights are seen; other layers, other weights, and an `activation`, a quantization
    or a LoRA that has changed are not: with any of these what is kept is dropped.
    """

    def __init__(self) -> None:
        self._kept: weakref.WeakKeyDictionary[keras.Model, tuple[Any, Any, Made]]
        self._kept = weakref.WeakKeyDictionary()

    def get(self, model: keras.Model, make: Callable[[], Made]) -> Made:
        """Returns what is kept for a model."""
        with TRACING:
            return self._get(model, make)

    def _get(self, model: keras.Model, make: Callable[[], Made]) -> Made:
        if model in self._kept:
            references, known, kept = self._kept[model]
            parts, values = _parts(model)
            # Numbers of objects are given again once these are gone.
            same = [id(one()) for one in references] == [id(part) for part in parts]
            if values == known and same:
                return kept
        made = make()
        # Afterwards, for a model may be built only when it is called.
        parts, values = _parts(model)
        self._kept[model] = [_reference(part) for part in parts], values, made
        return made


def _parts(model: keras.Model) -> tuple[list[Any], list[Any]]:
    objects, values = list(model.weights), []
    for layer in _layers(model):
        # Of an instance's own: a method of that name is another object each time.
        own = vars(layer)
        objects += [layer, own.get("activation")]
        values += [getattr(layer, "quantization_mode", None), own.get("lora_enabled")]
    return objects, values


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    # Not public, but only this tells the layer within one such as `TimeDistributed`.
    flatten = getattr(model, "_flatten_layers", None)
    return list(inner_layers(model) if flatten is None else flatten(include_self=False))


def _reference(part: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(part)
    except TypeError:  # `None`, and what has slots
        return lambda: part


_functions: PerModel[Callable[[tf.Tensor], tf.Tensor]] = PerModel()
