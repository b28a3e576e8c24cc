"""Attractors by their definition, and how many images lie in a basin."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attractors.analysis.batches import map_batches
from keras_traps.attractors.analysis.cosines import cosine


@dataclasses.dataclass(frozen=True)
class BasinCheck:
    """What was seen around a point.

    Args:
        holds: Whether every point looked at has its gradient within eps of the way to
            the attractor.
        share: The share of the points that has.
        smallest: The smallest cosine; NaN where a gradient is 0.
        cosines: `(samples,)`, float32: the cosine at each point.
    """

    holds: bool
    share: float
    smallest: float
    cosines: FloatArray


def is_attractor(
    x0: npt.ArrayLike,
    loss: Callable[[tf.Tensor], tf.Tensor],
    eps: float,
    radius: float,
    *,
    samples: int = 256,
    seed: int = 0,
    batch_size: int = 256,
) -> BasinCheck:
    """Checks on random points whether x0 is an eps-attractor of a loss.

    It is, with a ball of the given radius for a basin, if for all x of the ball
    cos(grad loss(x), x0 - x) >= 1 - eps. What is found at random points can refute
    that, and supports it no further than they go.

    Args:
        x0: One image, any shape, floating point; not held inside the pixel range.
        loss: The attack loss: from images `(batch, ...)` to `(batch,)`. It is to rise
            towards x0: pass the negative of what an attack lowers.
        eps: See above; from 0 to 2. Cosines are rounded to float32, which cannot tell
            an eps below 3e-8 from 0.
        radius: The ball's, above 0, in L2 for pixels in [0, 1].
        samples: How many points, uniform in the ball, at least 1. Defaults to `256`.
        seed: Seed of the points. Defaults to `0`.
        batch_size: How many points at once. Defaults to `256`.

    Returns:
        What was found.

    Raises:
        TypeError: If `x0` is not floating point.
        ValueError: If an argument is out of its range.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section IV-B.
    """
    centre = np.asarray(x0)
    if centre.dtype.kind != "f":
        raise TypeError(
            "Invalid value for argument `x0`. Expected floating point pixels. "
            f"Received: dtype={centre.dtype}"
        )
    if not (centre.size and np.isfinite(centre).all()):
        raise ValueError(
            "Invalid value for argument `x0`. Expected one image of finite pixels. "
            f"Received: shape={centre.shape}"
        )
    _check_eps(eps)
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(
            "Invalid value for argument `radius`. Expected a finite number above 0. "
            f"Received: radius={radius}"
        )
    if samples < 1:
        raise ValueError(
            "Invalid value for argument `samples`. Expected at least 1. "
            f"Received: samples={samples}"
        )
    ways = _points_of_ball(centre.size, samples, seed) * np.float32(radius)
    middle = tf.constant(centre.reshape(1, *centre.shape), tf.float32)

    def compare(way: tf.Tensor) -> tuple[tf.Tensor]:
        points = middle - tf.reshape(way, (-1, *centre.shape))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            value = loss(points)
        gradients = tape.gradient(value, points, unconnected_gradients="zero")
        # In float64, and of the points as they were rounded: the roundings of float32
        # would put a cosine of 1 some 1e-7 below it, and refute every attractor.
        exact = tf.cast(middle, tf.float64) - tf.cast(points, tf.float64)
        slopes = tf.cast(gradients, tf.float64)
        flat = tf.shape(way)
        found = cosine(tf.reshape(slopes, flat), tf.reshape(exact, flat))
        return (tf.cast(found, tf.float32),)

    cosines = map_batches(compare, ways, batch_size=batch_size)[0]
    near = cosines >= 1.0 - eps
    return BasinCheck(
        holds=bool(near.all()),
        share=float(near.mean()),
        smallest=float(cosines.min()),
        cosines=cosines,
    )


def basin_share(cosines: npt.ArrayLike, eps: float) -> float:
    """Returns the share of images that lie in the basin of an eps-attractor.

    Args:
        cosines: `(images,)`: of each image's gradient with the way to its nearest
            attractor. NaN, where there is no direction, is in no basin.
        eps: An image is in a basin if its cosine is at least `1 - eps`; from 0 to 2.
            Those that were computed in float32 may lie some 1e-7 below a cosine of 1.

    Returns:
        A share of all images.

    Raises:
        ValueError: If there are no images, or `eps` is out of range.
    """
    _check_eps(eps)
    values = np.asarray(cosines)
    if not values.size:
        raise ValueError(
            "Invalid value for argument `cosines`. Expected at least one. "
            f"Received: shape={values.shape}"
        )
    return float((values >= 1.0 - eps).mean())


def _check_eps(eps: float) -> None:
    if not 0 <= eps <= 2:
        raise ValueError(
            "Invalid value for argument `eps`. Expected a number from 0 to 2. "
            f"Received: eps={eps}"
        )


def _points_of_ball(pixels: int, samples: int, seed: int) -> FloatArray:
    draw = np.random.default_rng(seed)
    normal = draw.standard_normal((samples, pixels))
    lengths = draw.random((samples, 1)) ** (1 / pixels)
    points = normal / np.linalg.norm(normal, axis=1, keepdims=True) * lengths
    return points.astype(np.float32)
