"""The compiled search of DeepFool: images to just beyond the nearest boundary."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_traps.attacks.loop import once_per_model, watched
from keras_traps.attacks.losses import Logits
from keras_traps.attacks.success import fooled as has_fooled

# By how much more than the linear distance the authors' code steps, in L2.
_BEYOND = 1e-4


class Crossing(NamedTuple):
    """What a search came to.

    Args:
        images: The shape of the images, float32, in [0, 1]: just beyond the boundary;
            the image itself where it was there already, or the search failed.
        fooled: `(batch,)`, bool: whether the answer is another class than the given.
        iterations: `(batch,)`, int32: how many steps were made.
    """

    images: tf.Tensor
    fooled: tf.Tensor
    iterations: tf.Tensor


Search = Callable[..., Crossing]


def boundary_search(model: keras.Model) -> Search:
    """Returns the search for a model, compiled once.

    Args:
        model: A built model of logits or scores.

    Returns:
        A function of images `(batch, height, width, channels)`, float32, in [0, 1];
        classes to leave, `(batch,)`, int64; ids, `(batch,)`, int64; then, as scalars,
        the number of steps, int32, the overshoot, float32, and how many classes to
        look at, int32.
    """
    shape = (None, *model.input_shape[1:])
    row = tf.TensorSpec([None], tf.int64)

    def build(logits: Logits) -> Search:
        @tf.function(
            input_signature=[
                tf.TensorSpec(shape, tf.float32),
                row,
                row,
                tf.TensorSpec([], tf.int32),
                tf.TensorSpec([], tf.float32),
                tf.TensorSpec([], tf.int32),
            ],
            autograph=False,
        )
        def search(
            images: tf.Tensor,
            labels: tf.Tensor,
            ids: tf.Tensor,
            max_iter: tf.Tensor,
            overshoot: tf.Tensor,
            nb_candidate: tf.Tensor,
        ) -> Crossing:
            return _search(
                logits, images, labels, ids, max_iter, overshoot, nb_candidate
            )

        return search

    return once_per_model(model, "boundary search", build)


def _search(
    logits: Logits,
    images: tf.Tensor,
    labels: tf.Tensor,
    ids: tf.Tensor,
    max_iter: tf.Tensor,
    overshoot: tf.Tensor,
    nb_candidate: tf.Tensor,
) -> Crossing:
    outputs = logits(images)
    ranked = tf.argsort(outputs, axis=-1, direction="DESCENDING", stable=True)
    rivals = _without(ranked, labels)
    fooled = _fooled(outputs, labels)
    iterations = tf.zeros_like(labels, tf.int32)

    def work_left(step: tf.Tensor, rows: tf.Tensor, *state: tf.Tensor) -> tf.Tensor:
        del state
        return (step < max_iter) & (tf.size(rows) > 0)

    def advance(
        step: tf.Tensor,
        rows: tf.Tensor,
        moved: tf.Tensor,
        total: tf.Tensor,
        fooled: tf.Tensor,
        iterations: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        where, own = rows[:, None], tf.gather(labels, rows)
        distance, normal = _nearest(
            watched(logits, tf.gather(ids, rows)),
            tf.gather(moved, rows),
            own,
            tf.gather(rivals, rows)[:, : nb_candidate - 1],
        )
        # Without any slope there is no step, now or later.
        flat = tf.math.is_inf(distance)
        length = tf.where(flat, 0.0, distance + _BEYOND)
        start = tf.gather(images, rows)
        way = tf.gather(total, rows) + _per_image(length) * normal
        # What the box takes away is not carried on.
        way = tf.clip_by_value(start + way, 0.0, 1.0) - start
        there = tf.clip_by_value(start + (1 + overshoot) * way, 0.0, 1.0)
        over = _fooled(logits(there), own)
        return (
            step + 1,
            tf.boolean_mask(rows, ~(over | flat)),
            tf.tensor_scatter_nd_update(moved, where, there),
            tf.tensor_scatter_nd_update(total, where, way),
            tf.tensor_scatter_nd_update(fooled, where, over),
            tf.tensor_scatter_nd_add(iterations, where, tf.ones_like(rows, tf.int32)),
        )

    _, _, moved, _, fooled, iterations = tf.while_loop(
        work_left,
        advance,
        (
            tf.constant(0),
            tf.where(~fooled)[:, 0],
            images,
            tf.zeros_like(images),
            fooled,
            iterations,
        ),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None]),
            images.shape,
            images.shape,
            fooled.shape,
            iterations.shape,
        ),
    )
    return Crossing(tf.where(_per_image(fooled), moved, images), fooled, iterations)


def _nearest(
    logits: Logits, images: tf.Tensor, labels: tf.Tensor, rivals: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the distance to the nearest linear boundary, and the unit normal to it.

    One forward pass; then one backward pass for each rival.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(images)
        outputs = logits(images)
    classes = tf.shape(outputs)[1]
    given = tf.one_hot(labels, classes)

    def look_at(
        rank: tf.Tensor, nearest: tf.Tensor, normal: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        lead = tf.one_hot(rivals[:, rank], classes) - given
        slope = tape.gradient(outputs, images, output_gradients=lead)
        size, direction = _normalised(slope)
        gap = tf.abs(tf.reduce_sum(lead * outputs, axis=1))
        distance = tf.where(size > 0, gap / size, float("inf"))
        nearer = distance < nearest
        return (
            rank + 1,
            tf.where(nearer, distance, nearest),
            tf.where(_per_image(nearer), direction, normal),
        )

    _, nearest, normal = tf.while_loop(
        lambda rank, *_: rank < tf.shape(rivals)[1],
        look_at,
        (
            tf.constant(0),
            tf.fill(tf.shape(labels), float("inf")),
            tf.zeros_like(images),
        ),
    )
    return nearest, normal


def _normalised(slope: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the length of each image's slope, and the slope with length 1."""
    flat = tf.reshape(slope, (tf.shape(slope)[0], -1))
    # The square of a large or small number is none in float32.
    scale = tf.reduce_max(tf.abs(flat), axis=1)
    flat = tf.math.divide_no_nan(flat, scale[:, None])
    length = tf.norm(flat, axis=1)
    flat = tf.math.divide_no_nan(flat, length[:, None])
    return scale * length, tf.reshape(flat, tf.shape(slope))


def _without(ranked: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    others = tf.cast(ranked, labels.dtype) != labels[:, None]
    shape = tf.shape(ranked) - [0, 1]
    return tf.reshape(tf.boolean_mask(ranked, others), shape)


def _fooled(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return has_fooled(outputs, labels, tf.constant(False))


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return values[:, None, None, None]
