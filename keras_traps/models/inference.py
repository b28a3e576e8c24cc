"""Batched inference with one trace per model."""

import typing
import weakref
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray, check_count
from keras_traps.models.per_model import PerModel

_functions: PerModel[Callable[[tf.Tensor], tf.Tensor]] = PerModel()


def inference_function(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the model as one `tf.function` for any batch size.

    Args:
        model: A built model with one input. It is called with `training=False`.

    Returns:
        A function from a float32 batch to the model's output, float32; the same one
        at every call, so that it is traced once, until the model has other layers or
        weights. Not compiled by XLA, whose convolutions are slow on a CPU. It does not
        keep the model alive.
    """

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
            return tf.cast(alive(images, training=False), tf.float32)

        return typing.cast(Callable[[tf.Tensor], tf.Tensor], infer)

    return _functions.get(model, make)


def predict(
    model: keras.Model, images: FloatArray, *, batch_size: int = 256
) -> FloatArray:
    """Runs a model over images, batch by batch.

    Args:
        model: A built model with one input and one output.
        images: `(batch, ...)`, float32.
        batch_size: How many images at once. Defaults to `256`.

    Returns:
        The outputs, float32.

    Raises:
        ValueError: If `batch_size` is not an integer of at least 1.
    """
    check_count("batch_size", batch_size)
    infer = inference_function(model)
    return np.concatenate(
        [
            infer(tf.constant(images[start : start + batch_size])).numpy()
            for start in range(0, len(images), batch_size)
        ]
    )
