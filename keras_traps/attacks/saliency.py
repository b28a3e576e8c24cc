"""The compiled search of JSMA: pair after pair by the saliency map."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import keras
import tensorflow as tf

from keras_traps.attacks.loop import apart, once_per_model, watched
from keras_traps.attacks.losses import Logits, Loss, rivals_lead
from keras_traps.attacks.pixel_pairs import best_pairs
from keras_traps.attacks.rows import Finished, only
from keras_traps.attacks.success import fooled

Saliency = Literal["probabilities", "logits"]
"""Whose derivatives the saliency map is made of."""

# DEEPSEC does not raise a pixel that is so near its maximum.
_BRIGHTEST = 0.99


def saliency_search(
    model: keras.Model, saliency: Saliency, loss: Loss
) -> Callable[..., Finished]:
    """Returns the search for a model, compiled once.

    Args:
        model: A built model of logits or scores.
        saliency: Whose derivatives make the map.
        loss: For the map of the probabilities: whether the target is compared with
            all classes together or with its strongest rival.

    Returns:
        A function of images `(batch, height, width, channels)`, float32, in [0, 1];
        targets, `(batch,)`, int64; ids, `(batch,)`, int64; then, as scalars, how much a
        value is raised, float32, and the number of steps, int32. Where the target was
        not reached, its result is the image itself.
    """
    column = tf.TensorSpec((None,), tf.int64)

    def build(infer: Logits) -> Callable[..., Finished]:
        @tf.function(
            input_signature=[
                tf.TensorSpec((None, *model.input_shape[1:]), tf.float32),
                column,
                column,
                tf.TensorSpec((), tf.float32),
                tf.TensorSpec((), tf.int32),
            ],
            autograph=False,
        )
        def search(
            images: tf.Tensor,
            labels: tf.Tensor,
            ids: tf.Tensor,
            theta: tf.Tensor,
            steps: tf.Tensor,
        ) -> Finished:
            position = tf.range(tf.shape(images)[0])
            allowed = tf.reshape(images, (-1, _size(images))) < _BRIGHTEST
            rows = _Rows(position, labels, ids, images, images, allowed)
            return _Search(infer, saliency, loss, theta, steps).run(rows)

        # Traced here once and for all, and not counted among its callers' retracings.
        search.get_concrete_function()
        return search

    return once_per_model(model, ("saliency search", saliency, loss), build)


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs.

    Args:
        position: Where in the batch they are.
        labels: Their targets.
        ids: Which examples they are.
        clean: Their clean images.
        images: Where they are.
        allowed: `(rows, values)`: which values may still be raised.
    """

    position: tf.Tensor
    labels: tf.Tensor
    ids: tf.Tensor
    clean: tf.Tensor
    images: tf.Tensor
    allowed: tf.Tensor


class _Search:
    """The search as a graph."""

    def __init__(
        self,
        infer: Logits,
        saliency: Saliency,
        loss: Loss,
        theta: tf.Tensor,
        steps: tf.Tensor,
    ) -> None:
        self.infer = infer
        self.saliency = saliency
        self.loss = loss
        self.theta = theta
        self.steps = steps

    def run(self, rows: _Rows) -> Finished:
        finished = Finished(rows.clean, tf.zeros_like(rows.position))
        step, rows, finished = tf.while_loop(
            lambda step, rows, _: (step < self.steps) & (tf.size(rows.position) > 0),
            self.advance,
            (tf.constant(0), rows, finished),
        )
        # Not all kernels take an empty batch.
        return tf.cond(
            tf.size(rows.position) > 0,
            lambda: self.leave(
                rows, self.reached(rows, self.infer(rows.images)), step, finished
            ),
            lambda: finished,
        )

    def advance(
        self, step: tf.Tensor, rows: _Rows, finished: Finished
    ) -> tuple[tf.Tensor, _Rows, Finished]:
        """Raises the best pair of each row, except of those that leave."""
        logits, target, others = apart(self.derivatives)(rows)
        pairs = best_pairs(target, others, rows.allowed)
        done = self.reached(rows, logits)
        over = done | ~pairs.found
        taken = tf.one_hot(pairs.first, _size(rows.images)) + tf.one_hot(
            pairs.second, _size(rows.images)
        )
        raised = rows.images + self.theta * tf.reshape(taken, tf.shape(rows.images))
        moved = rows._replace(
            images=tf.minimum(raised, 1.0), allowed=rows.allowed & (taken == 0)
        )
        rows, finished = tf.cond(
            tf.reduce_any(over),
            lambda: (
                only(~over, moved),
                self.leave(
                    only(over, rows), tf.boolean_mask(done, over), step, finished
                ),
            ),
            lambda: (moved, finished),
        )
        return step + 1, rows, finished

    def derivatives(self, rows: _Rows) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the answers, and the derivatives of the target and of the others."""
        logits_of = watched(self.infer, rows.ids)
        with tf.GradientTape(True, watch_accessed_variables=False) as tape:
            tape.watch(rows.images)
            logits = logits_of(rows.images)
            lead = -rivals_lead(logits, rows.labels, self.loss)
            target = tf.gather(logits, rows.labels, batch_dims=1)
            others = tf.reduce_sum(logits, axis=1) - target

        def slope(value: tf.Tensor) -> tf.Tensor:
            gradient = tape.gradient(value, rows.images)
            return tf.reshape(gradient, (-1, _size(rows.images)))

        if self.saliency == "logits":
            return logits, slope(target), slope(others)
        # A probability's derivative is that of its log-odds times p (1 - p), and the
        # others' is minus that.
        ascent = slope(lead)
        return logits, ascent, -ascent

    def reached(self, rows: _Rows, logits: tf.Tensor) -> tf.Tensor:
        return fooled(logits, rows.labels, tf.constant(True))

    def leave(
        self, rows: _Rows, done: tf.Tensor, step: tf.Tensor, finished: Finished
    ) -> Finished:
        images = tf.where(done[:, None, None, None], rows.images, rows.clean)
        return finished.write(rows.position, images, step)


def _size(images: tf.Tensor) -> int:
    return math.prod(images.shape[1:])
