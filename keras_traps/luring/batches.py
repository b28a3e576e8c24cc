"""Arrays in memory as batches for a training, in an order that a seed draws."""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray

Int32Array = npt.NDArray[np.int32]

Held = TypeVar("Held")


def batches(
    images: FloatArray | tf.Tensor,
    told: Mapping[str, Any] | npt.NDArray[Any] | tf.Tensor,
    *,
    batch_size: int = 64,
    order: npt.NDArray[np.integer] | None = None,
) -> tf.data.Dataset:
    """Cuts arrays that are held in memory into batches.

    Args:
        images: `(images, ...)`. Who cuts the same ones again and again, each time in
            another order, holds them as tensors, by `hold`.
        told: What goes with each, an array or several by name, images first.
        batch_size: How many images a batch has where there is no `order`. Defaults
            to `64`.
        order: Which images each batch has, `(batches, batch_size)`. Defaults to all
            in their order.

    Returns:
        Batches of `(images, told)`.
    """
    data = (images, told)
    if order is None:
        slices = tf.data.Dataset.from_tensor_slices(data)
        return _untuned(slices.batch(batch_size).prefetch(2))
    held = hold(data)

    def chosen(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.nest.map_structure(lambda part: tf.gather(part, rows), held)

    return _untuned(tf.data.Dataset.from_tensor_slices(order).map(chosen).prefetch(2))


def hold(data: Held) -> Held:
    """Makes tensors of arrays, once for all data sets that are cut from them.

    A data set copies the arrays that it is cut from, and the copy lives until Python
    looks for cycles: a training in stages piled up gigabytes.

    Args:
        data: Arrays, in any structure; tensors stay what they are.

    Returns:
        The same structure of tensors.
    """
    held: Held = tf.nest.map_structure(tf.convert_to_tensor, data)
    return held


def batch_order(count: int, batch_size: int, steps: int, *, seed: int) -> Int32Array:
    """Draws which images each step of a training sees.

    Every image is seen once before any is seen again; a batch may hold the last images
    of one pass and the first of the next.

    Args:
        count: How many images there are.
        batch_size: How many a step sees.
        steps: How many steps there are.
        seed: Of the order of each pass. The first steps of a longer training are those
            of a shorter one.

    Returns:
        Indices `(steps, batch_size)`, int32.
    """
    passes = -(-steps * batch_size // count)
    drawn = [
        np.random.default_rng([seed, number]).permutation(count)
        for number in range(passes)
    ]
    rows = np.concatenate(drawn)[: steps * batch_size]
    return rows.reshape(steps, batch_size).astype(np.int32)


def _untuned(data: tf.data.Dataset) -> tf.data.Dataset:
    # What tunes a pipeline sleeps for up to a minute at a time, and `fit`, when it is
    # done with the data, waits until it wakes. Here is nothing to tune.
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
