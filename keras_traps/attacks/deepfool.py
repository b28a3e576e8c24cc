"""DeepFool: step by step to the nearest boundary of the linearised model."""

import dataclasses
import functools
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.base import (
    Attack,
    Batch,
    Count,
    NotNegative,
    Perturbed,
    TwoOrMore,
    numbers_of,
)
from keras_traps.attacks.loop import (
    Finished,
    Logits,
    Step,
    compiled,
    fooled,
    iterate,
    normalised,
    only,
    sift,
    watch,
)

# By how much more than the linear distance the authors' code steps, in L2.
_BEYOND = 1e-4
_ALL = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Steps to the nearest linear boundary, until another class is answered.

    Moosavi-Dezfooli et al., DeepFool: a simple and accurate method to fool deep neural
    networks, 2016. The sum of the steps is stretched and clipped to [0, 1].
    """

    max_iter: Count = 50
    overshoot: NotNegative = 0.02  # beyond the boundary, as a share of the change
    # How many classes to look at: those that the model holds most likely on the clean
    # image, its own among them; or all.
    nb_candidate: TwoOrMore | None = None
    name = "DeepFool"
    searches = True

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches for the boundary."""
        found = self.cross(batch.model, batch.images, batch.labels, batch.ids)
        return Perturbed(found.images, found.iterations)

    def cross(
        self, model: keras.Model, images: FloatArray, labels: IntArray, ids: IntArray
    ) -> Finished:
        """Leads images over the nearest boundary of the classes to leave.

        Those that were there already, or for which the search fails, stay as they are.
        """
        settings = numbers_of(self)
        settings["nb_candidate"] = tf.constant(self.nb_candidate or _ALL)
        arguments = (images, labels, ids, settings)
        search = compiled(
            model, "boundary search", lambda logits: _Search(logits).run, arguments
        )
        found: Finished = search(*arguments)
        return found


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs."""

    position: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    ids: tf.Tensor
    rivals: tf.Tensor  # the classes to compare with
    moved: tf.Tensor
    total: tf.Tensor  # the sum of the steps, which the box has cut off


class _Search(NamedTuple):
    """The search on a model, as a graph."""

    logits: Logits

    def run(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        settings: dict[str, tf.Tensor],
    ) -> Finished:
        outputs = self.logits(images)
        ranked = tf.argsort(outputs, axis=-1, direction="DESCENDING", stable=True)
        others = tf.boolean_mask(
            ranked, tf.cast(ranked, labels.dtype) != labels[:, None]
        )
        rivals = tf.reshape(others, tf.shape(ranked) - [0, 1])
        rivals = rivals[:, : settings["nb_candidate"] - 1]
        position = tf.range(tf.shape(images)[0])
        total = tf.zeros_like(images)
        rows = _Rows(position, images, labels, ids, rivals, images, total)
        step, rows, finished = iterate(
            only(~fooled(outputs, labels, False), rows),
            functools.partial(self.advance, settings["overshoot"]),
            finished=Finished(images, tf.zeros_like(position)),
            steps=settings["max_iter"],
        )
        return finished.write(rows.position, rows.clean, step)

    def advance(
        self, overshoot: tf.Tensor, step: tf.Tensor, rows: _Rows, finished: Finished
    ) -> Step[_Rows]:
        """Makes one step, after which those that are over a boundary leave."""
        distance, normal = self.nearest(rows)
        # Without any slope there is no step, now or later.
        flat = tf.math.is_inf(distance)
        length = tf.where(flat, 0.0, distance + _BEYOND)
        way = rows.total + _per_image(length) * normal
        # What the box takes away is not carried on.
        way = tf.clip_by_value(rows.clean + way, 0.0, 1.0) - rows.clean
        there = tf.clip_by_value(rows.clean + (1 + overshoot) * way, 0.0, 1.0)
        over = fooled(self.logits(there), rows.labels, False)
        moved = rows._replace(moved=there, total=way)
        images = tf.where(_per_image(over), there, rows.clean)
        result = rows.position, images, step + 1
        return step + 1, *sift(over | flat, moved, finished, result)

    def nearest(self, rows: _Rows) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the distance to the nearest linear boundary, and the unit normal."""
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(rows.moved)
            outputs = self.logits(watch(rows.moved, rows.ids))
        classes = tf.shape(outputs)[1]
        given = tf.one_hot(rows.labels, classes)

        def look_at(
            rank: tf.Tensor, nearest: tf.Tensor, normal: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            lead = tf.one_hot(rows.rivals[:, rank], classes) - given
            slope = tape.gradient(outputs, rows.moved, output_gradients=lead)
            size, direction = normalised(slope)
            size = tf.reshape(size, (-1,))
            gap = tf.abs(tf.reduce_sum(lead * outputs, axis=1))
            distance = tf.where(size > 0, gap / size, float("inf"))
            nearer = distance < nearest
            normal = tf.where(_per_image(nearer), direction, normal)
            return rank + 1, tf.where(nearer, distance, nearest), normal

        infinite = tf.fill(tf.shape(rows.labels), float("inf"))
        _, nearest, normal = tf.while_loop(
            lambda rank, *_: rank < tf.shape(rows.rivals)[1],
            look_at,
            (tf.constant(0), infinite, tf.zeros_like(rows.moved)),
        )
        return nearest, normal


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return values[:, None, None, None]
