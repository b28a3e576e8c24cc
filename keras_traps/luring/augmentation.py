"""Random turns and shifts of training images, the same for the same seed."""

import math

import tensorflow as tf


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
