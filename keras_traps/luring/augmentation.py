"""Random turns and shifts of training images, the same for the same seed."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from keras_traps._checks import check_number


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far training images are turned and shifted.

    Args:
        rotation: The largest turn in degrees, either way, at least 0. Defaults to
            `0.0`.
        shift: The largest shift, as a share of height and width, either way, at least
            0 and below 1. Defaults to `0.0`.

    Raises:
        ValueError: If a number is out of its range.
    """

    rotation: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_number(self.rotation, name="rotation", at_least=0.0)
        check_number(self.shift, name="shift", at_least=0.0, below=1.0)

    def __bool__(self) -> bool:
        """Whether images are moved at all."""
        return bool(self.rotation or self.shift)


def augment(
    data: tf.data.Dataset, augmentation: Augmentation, *, seed: int, first: int = 0
) -> tf.data.Dataset:
    """Turns and shifts the images of batches, each batch by its number.

    Args:
        data: Batches of images, or of images and what goes with them.
        augmentation: How far.
        seed: Of all draws.
        first: The number of the first batch. Defaults to `0`.

    Returns:
        The same batches with other images, float32. What goes with them stays.
    """

    def moved(number: tf.Tensor, batch: Any) -> Any:
        images, *told = batch if isinstance(batch, tuple) else (batch,)
        turned = turn_and_shift(
            images,
            tf.stack([tf.constant(seed, tf.int64), number]),
            rotation=augmentation.rotation,
            shift=augmentation.shift,
        )
        return (turned, *told) if told else turned

    return data.enumerate(first).map(moved) if augmentation else data


def turn_and_shift(
    images: tf.Tensor, seed: tf.Tensor, *, rotation: float, shift: float
) -> tf.Tensor:
    """Turns and shifts each image at random; what comes in repeats the border.

    Args:
        images: `(batch, height, width, channels)`, floating point.
        seed: `(2,)`, integer; the same seed gives the same images.
        rotation: The largest turn in degrees, either way.
        shift: The largest shift, as a share of height and width, either way.

    Returns:
        Images of the same shape and dtype, interpolated between pixels.
    """
    count, height, width = (tf.shape(images)[axis] for axis in range(3))
    drawn = tf.random.stateless_uniform((count, 3), seed, -1.0, 1.0)
    angle = drawn[:, 0] * (rotation * math.pi / 180.0)
    y, x = ((tf.cast(size, tf.float32) - 1.0) / 2.0 for size in (height, width))
    down, right = (
        drawn[:, axis] * shift * tf.cast(size, tf.float32)
        for axis, size in ((1, height), (2, width))
    )
    cos, sin, none = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle)
    # Where in the image each pixel of the result comes from, about the centre.
    rows = [
        cos,
        -sin,
        x - cos * x + sin * y + right,
        sin,
        cos,
        y - sin * x - cos * y + down,
        none,
        none,
    ]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, axis=1),
        output_shape=tf.stack([height, width]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
