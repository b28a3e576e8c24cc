"""The nearest attractor of an image, and whether gradients lead to it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from figures.gradients import Loss, cosine, gradient, map_batches
from keras_traps import ops
from keras_traps._checks import (
    FloatArray,
    IntArray,
    check_count,
    check_images,
    check_number,
    check_positive,
)
from keras_traps.layers import QIMDecoder

Scale = float | Literal["nearest", "whole"]
"""Which pixels hold an attractor's message; the others stay as they are.

A step size of the decoder: its pixels. `"whole"`: all pixels. `"nearest"`: those of any
one step size, whichever is the nearest.
"""

Ends = Literal["cut", "inside"]
"""What becomes of a pixel whose nearest codeword lies outside the pixel range.

`"cut"`: it goes to that end of the range, where its correlation is highest within the
range. `"inside"`: it goes to its nearest codeword in the range, as `ops.qim_embed` does,
even where the correlation first falls on the way.
"""


class Ways(NamedTuple):
    """The ways to the nearest attractors, inside a graph.

    Args:
        ways: `(batch, pixels)`, float32: x_w - x.
        classes: `(batch,)`, int64: t, whose message x_w holds.
        steps: `(batch,)`, float32: the step size of the pixels that hold it; 0 where
            all do.
    """

    ways: tf.Tensor
    classes: tf.Tensor
    steps: tf.Tensor


@dataclasses.dataclass(frozen=True)
class NearestAttractors:
    """The nearest attractor of each image.

    Args:
        images: x_w, the shape of the images, float32.
        classes: `(images,)`, int64: see `Ways`.
        steps: `(images,)`, float32: see `Ways`.
        distances: `(images,)`, float32: L2 distance of x_w to x, pixels in [0, 1].
    """

    images: FloatArray
    classes: IntArray
    steps: FloatArray
    distances: FloatArray


@dataclasses.dataclass(frozen=True)
class AttractorCosines:
    """How well a direction agrees with the way to the nearest attractor.

    Args:
        cosines: By the loss's name, `(images,)`, float32: cos(x_w - x, -grad J). NaN
            where one of the two is 0.
        feasible: The same with what is left of -grad J once no pixel may leave [0, 1],
            which is how far an attack can follow it.
        classes: `(images,)`, int64: t, the class of the nearest attractor.
        steps: `(images,)`, float32: see `Ways`.
        distances: `(images,)`, float32: L2 distance of x_w to x, pixels in [0, 1].
    """

    cosines: Mapping[str, FloatArray]
    feasible: Mapping[str, FloatArray]
    classes: IntArray
    steps: FloatArray
    distances: FloatArray


def find_ways(
    decoder: QIMDecoder,
    images: tf.Tensor,
    *,
    scale: Scale = "nearest",
    ends: Ends = "cut",
) -> Ways:
    """Finds the ways to the nearest attractors inside a graph.

    One message is looked at after the other, so that the memory does not grow with
    their number.

    Args:
        decoder: A built decoder.
        images: `(batch, ...)`, float32, pixels in [0, 1].
        scale: See `Scale`. Defaults to `"nearest"`.
        ends: See `Ends`. Defaults to `"cut"`.

    Returns:
        The ways, the classes, and the step sizes.

    Raises:
        ValueError: If the decoder does not have the step size asked for.
    """
    masks, names = _masks(decoder, scale)
    grey = tf.reshape(images, (-1, masks.shape[1])) * decoder.pixel_scale
    steps = tf.convert_to_tensor(decoder.pixel_steps)
    bits = tf.convert_to_tensor(decoder.message_bits)

    def squares(message: tf.Tensor) -> tf.Tensor:
        way = _embed(grey, message, steps, ends) - grey
        return tf.matmul(way * way, masks, transpose_b=True)

    # (messages, batch, scales)
    found = tf.map_fn(squares, bits, fn_output_signature=tf.float32)
    best_message = tf.argmin(found, axis=0)
    chosen = tf.argmin(tf.reduce_min(found, axis=0), axis=1)
    classes = tf.gather(best_message, chosen, axis=1, batch_dims=1)
    held = _embed(grey, tf.gather(bits, classes), steps, ends)
    ways = (held - grey) * tf.gather(masks, chosen) / decoder.pixel_scale
    return Ways(ways, classes, tf.gather(names, chosen))


def nearest_attractors(
    decoder: QIMDecoder,
    images: npt.ArrayLike,
    *,
    scale: Scale = "nearest",
    ends: Ends = "cut",
) -> NearestAttractors:
    """Finds the nearest attractor x_w of each image, over all messages.

    Args:
        decoder: A built decoder.
        images: `(images, ...)`, floating point, pixels in [0, 1].
        scale: See `Scale`. Defaults to `"nearest"`.
        ends: See `Ends`. Defaults to `"cut"`.

    Returns:
        The attractors.

    Raises:
        TypeError: If images are integers.
        ValueError: If there are no images, they do not fit the decoder, a pixel is not
            in [0, 1], or the decoder does not have the step size asked for.

    Reference:
        Zhang, Chang, Lee, Section VI-C2.
    """
    array = check_images(images, decoder.image_shape)

    def find(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = find_ways(decoder, batch, scale=scale, ends=ends)
        # The rounding of way and sum may leave the range by a last bit.
        attractors = tf.clip_by_value(
            batch + tf.reshape(found.ways, tf.shape(batch)), 0.0, 1.0
        )
        return attractors, found.classes, found.steps, tf.norm(found.ways, axis=1)

    return NearestAttractors(*map_batches(find, array))


def loss_cosines(
    decoder: QIMDecoder, losses: Mapping[str, Loss], images: npt.ArrayLike
) -> AttractorCosines:
    """Compares the descent of losses with the way to the nearest attractor.

    Args:
        decoder: A built decoder.
        losses: By name, what is lowered towards class t: `soft_label_loss` of C, of M.
        images: `(images, ...)`, floating point, pixels in [0, 1].

    Returns:
        The cosines. No gradient or attractor is kept beyond its batch.

    Raises:
        TypeError: If images are integers.
        ValueError: If there are no images, they do not fit the decoder, or a pixel is
            not in [0, 1].

    Reference:
        Zhang, Chang, Lee, Section VI-C2.
    """
    array = check_images(images, decoder.image_shape)

    def compare(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = find_ways(decoder, batch)
        pixels = tf.reshape(batch, tf.shape(found.ways))
        plain, feasible = [], []
        for loss in losses.values():
            descent = -gradient(loss, batch, found.classes)
            descent = tf.reshape(descent, tf.shape(found.ways))
            leaves = ((pixels <= 0.0) & (descent < 0.0)) | (
                (pixels >= 1.0) & (descent > 0.0)
            )
            plain.append(cosine(descent, found.ways))
            feasible.append(cosine(tf.where(leaves, 0.0, descent), found.ways))
        return (
            tf.stack(plain, axis=1),
            tf.stack(feasible, axis=1),
            found.classes,
            found.steps,
            tf.norm(found.ways, axis=1),
        )

    plain, feasible, *rest = map_batches(compare, array)
    return AttractorCosines(
        dict(zip(losses, plain.T, strict=True)),
        dict(zip(losses, feasible.T, strict=True)),
        *rest,
    )


def basin_share(cosines: npt.ArrayLike, eps: float) -> float:
    """Returns the share of images that lie in the basin of an eps-attractor.

    Args:
        cosines: `(images,)`: of each image's gradient with the way to its nearest
            attractor. NaN, where there is no direction, is in no basin.
        eps: An image is in a basin if its cosine is at least `1 - eps`; from 0 to 2.

    Returns:
        A share of all images.

    Raises:
        ValueError: If there are no images, or `eps` is out of range.
    """
    values = np.asarray(cosines)
    if not values.size:
        raise ValueError(
            "Invalid value for argument `cosines`. Expected at least one. "
            f"Received: shape={values.shape}"
        )
    return float((values >= _least_cosine(eps)).mean())


@dataclasses.dataclass(frozen=True)
class BasinCheck:
    """What was seen around a point.

    Args:
        holds: Whether every point looked at has its gradient within eps of the way to
            the attractor.
        cosines: `(samples,)`, float32: the cosine at each point; NaN where a gradient
            is 0.
    """

    holds: bool
    cosines: FloatArray


def is_attractor(
    x0: FloatArray,
    loss: Callable[[tf.Tensor], tf.Tensor],
    eps: float,
    radius: float,
    *,
    samples: int = 256,
    seed: int = 0,
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
        samples: How many points, uniform in the ball. Defaults to `256`.
        seed: Seed of the points. Defaults to `0`.

    Returns:
        What was found.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section IV-B.
    """
    least = _least_cosine(eps)
    check_positive("radius", radius)
    check_count("samples", samples)
    ways = _points_of_ball(x0.size, samples, seed) * np.float32(radius)
    middle = tf.constant(x0.reshape(1, *x0.shape), tf.float32)

    def compare(way: tf.Tensor) -> tuple[tf.Tensor]:
        points = middle - tf.reshape(way, (-1, *x0.shape))
        slopes = gradient(lambda images, _: loss(images), points, way)
        # In float64, and of the points as they were rounded: the roundings of float32
        # would put a cosine of 1 some 1e-7 below it, and refute every attractor.
        exact = tf.cast(middle, tf.float64) - tf.cast(points, tf.float64)
        flat = tf.shape(way)
        found = cosine(
            tf.reshape(tf.cast(slopes, tf.float64), flat), tf.reshape(exact, flat)
        )
        return (tf.cast(found, tf.float32),)

    (cosines,) = map_batches(compare, ways)
    return BasinCheck(bool((cosines >= least).all()), cosines)


def _masks(decoder: QIMDecoder, scale: Scale) -> tuple[tf.Tensor, tf.Tensor]:
    """Which pixels may move, a row per scale to be searched, and their steps."""
    steps = tf.convert_to_tensor(decoder.pixel_steps)
    if scale == "whole":
        return tf.ones_like(steps)[None], tf.zeros(1)
    there = sorted(set(decoder.steps))
    wanted = there if scale == "nearest" else [scale]
    if not set(wanted) <= set(there):
        raise ValueError(
            "Invalid value for argument `scale`. Expected a step size of the "
            f"decoder, one of {tuple(there)}. Received: scale={scale}"
        )
    names = tf.constant(wanted, tf.float32)
    return tf.cast(tf.equal(steps, names[:, None]), tf.float32), names


def _embed(
    grey: tf.Tensor, message: tf.Tensor, steps: tf.Tensor, ends: Ends
) -> tf.Tensor:
    if ends == "inside":
        return ops.qim_embed(grey, message, steps).image
    # The op keeps to [0, 255]. Moved up by a period and shrunk, every pixel lies
    # nearer to its codeword than to an end: the codebook is as good as endless.
    period = 2.0 * steps
    shrink = (255.0 + 2.0 * period) / 255.0
    moved = ops.qim_embed((grey + period) / shrink, message, steps / shrink).image
    return tf.clip_by_value(moved * shrink - period, 0.0, 255.0)


def _least_cosine(eps: float) -> float:
    check_number(eps, name="eps", at_least=0.0, below=math.nextafter(2.0, 3.0))
    return 1.0 - eps


def _points_of_ball(pixels: int, samples: int, seed: int) -> FloatArray:
    draw = np.random.default_rng(seed)
    normal = draw.standard_normal((samples, pixels))
    lengths = draw.random((samples, 1)) ** (1 / pixels)
    points = normal / np.linalg.norm(normal, axis=1, keepdims=True) * lengths
    return points.astype(np.float32)
