"""Whether gradients point to the nearest attractor: Figure 7."""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray, check_images
from keras_traps.attractors.analysis.batches import map_batches
from keras_traps.attractors.analysis.local_density import LocalDensity
from keras_traps.attractors.analysis.nearest import DEFAULT_SEARCH, AttractorSearch
from keras_traps.attractors.analysis.scores import Loss, Scores, gradient
from keras_traps.attractors.injection import decoder_of
from keras_traps.layers import QIMDecoder


@dataclasses.dataclass(frozen=True)
class AttractorCosines:
    """How well a direction agrees with the way to the nearest attractor.

    Args:
        cosines: By the loss's name, `(images,)`, float32: cos(x_w - x, -grad J). NaN
            where one of the two is 0.
        feasible: The same with what is left of -grad J once no pixel may leave [0, 1],
            which is how far an attack can follow it.
        classes: `(images,)`, int64: t, the class of the nearest attractor.
        steps: `(images,)`, float32: see `NearestAttractors`.
        distances: `(images,)`, float32: L2 distance of x_w to x, pixels in [0, 1].
    """

    cosines: Mapping[str, FloatArray]
    feasible: Mapping[str, FloatArray]
    classes: IntArray
    steps: FloatArray
    distances: FloatArray


@dataclasses.dataclass(frozen=True)
class DensityCosines:
    """The same for the gradient of the local density.

    Args:
        cosines: `(images,)`, float32, with an axis of models after it where there are
            several: cos(x_w - x, grad H). NaN where no point was of class t, or every
            one was, so that there is no direction.
        hits: The same shape: the share of the points on the sphere of class t.
        classes: `(images,)`, int64: t.
        distances: `(images,)`, float32: L2 distance of x_w to x, pixels in [0, 1].
    """

    cosines: npt.NDArray[np.float32]
    hits: npt.NDArray[np.float32]
    classes: IntArray
    distances: FloatArray


def loss_cosines(
    trapped: keras.Model | QIMDecoder,
    losses: Mapping[str, Loss],
    images: npt.ArrayLike,
    *,
    search: AttractorSearch = DEFAULT_SEARCH,
    batch_size: int = 256,
) -> AttractorCosines:
    """Compares the descent of losses with the way to the nearest attractor.

    Args:
        trapped: A trapped model from `inject`, or its decoder.
        losses: By name, what is lowered towards class t: `soft_label_loss` of C, of M.
        images: `(images, ...)`, floating point, pixels in [0, 1].
        search: What counts as an attractor. Defaults to `AttractorSearch()`.
        batch_size: How many images at once. Defaults to `256`.

    Returns:
        The cosines. No gradient or attractor is kept beyond its batch.

    Raises:
        TypeError: If images are integers.
        ValueError: If the model has no QIM decoder, there are no images or losses,
            images do not fit the decoder, or a pixel is not in [0, 1].

    Reference:
        Zhang, Chang, Lee, Section VI-C2.
    """
    decoder = trapped if isinstance(trapped, QIMDecoder) else decoder_of(trapped)
    array = check_images(images, decoder.image_shape)
    if not losses:
        raise ValueError(
            "Invalid value for argument `losses`. Expected at least one. Received: {}"
        )

    def compare(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = search.run(decoder, batch)
        pixels = tf.reshape(batch, tf.shape(found.ways))
        plain, feasible = [], []
        for loss in losses.values():
            descent = -gradient(loss, batch, found.classes)
            descent = tf.reshape(descent, tf.shape(found.ways))
            leaves = ((pixels <= 0.0) & (descent < 0.0)) | (
                (pixels >= 1.0) & (descent > 0.0)
            )
            plain.append(cosine(descent, found.ways))
            held = tf.where(leaves, 0.0, descent)
            feasible.append(cosine(held, found.ways))
        distances = tf.norm(found.ways, axis=1)
        return (
            tf.stack(plain, axis=1),
            tf.stack(feasible, axis=1),
            found.classes,
            found.steps,
            distances,
        )

    plain, feasible, *rest = map_batches(compare, array, batch_size=batch_size)
    return AttractorCosines(
        dict(zip(losses, plain.T, strict=True)),
        dict(zip(losses, feasible.T, strict=True)),
        *rest,
    )


def density_cosines(
    trapped: keras.Model | QIMDecoder,
    scores: Scores,
    images: npt.ArrayLike,
    *,
    delta: float,
    samples: int,
    search: AttractorSearch = DEFAULT_SEARCH,
    seed: int = 0,
    batch_size: int = 256,
) -> DensityCosines:
    """Compares the gradient of the local density with the way to an attractor.

    Args:
        trapped: A trapped model from `inject`, or its decoder.
        scores: See `LocalDensity`: of one model, or of several.
        images: `(images, ...)`, floating point, pixels in [0, 1].
        delta: Radius, above 0, in L2 for pixels in [0, 1].
        samples: How many points for each image, at least 2.
        search: What counts as an attractor. Defaults to `AttractorSearch()`.
        seed: Seed of the points. Defaults to `0`.
        batch_size: How many points to score at once, see `LocalDensity`. Defaults to
            `256`.

    Returns:
        The cosines. No gradient or attractor is kept beyond its batch.

    Raises:
        TypeError: If images are integers.
        ValueError: If the model has no QIM decoder, there are no images, they do not
            fit the decoder, a pixel is not in [0, 1], or an argument is out of range.

    Reference:
        Zhang, Chang, Lee, Section VI-C3.
    """
    decoder = trapped if isinstance(trapped, QIMDecoder) else decoder_of(trapped)
    array = check_images(images, decoder.image_shape)
    local = LocalDensity(
        scores,
        array.shape[1:],
        delta=delta,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
    )

    def compare(batch: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = search.run(decoder, batch)
        gradients, _, hits = local.gradient_graph(batch, found.classes, ids)
        flat = tf.reshape(gradients, tf.concat([tf.shape(hits), [-1]], axis=0))
        ways = tf.reshape(
            found.ways, (-1, *[1] * (flat.shape.rank - 2), found.ways.shape[1])
        )
        distances = tf.norm(found.ways, axis=1)
        return cosine(flat, ways), hits, found.classes, distances

    ids: IntArray = np.arange(len(array))
    return DensityCosines(*map_batches(compare, array, ids, batch_size=32))


def cosine(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns the cosine similarity along the last axis, inside a graph.

    Args:
        first: `(..., pixels)`, float32.
        second: The same shape, or one that broadcasts to it.

    Returns:
        `(...)`; NaN where one of the two vectors is 0.
    """
    return tf.reduce_sum(_unit(first) * _unit(second), axis=-1)


def _unit(vector: tf.Tensor) -> tf.Tensor:
    # Brought to 1 first: the squares of a vanishing gradient are 0 in float32.
    largest = tf.reduce_max(tf.abs(vector), axis=-1, keepdims=True)
    scaled = vector / largest
    return scaled / tf.norm(scaled, axis=-1, keepdims=True)
