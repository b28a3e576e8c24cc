"""DeepFool, to the linearised model's nearest boundary; UAP, which learns by it."""

import dataclasses
import functools
import hashlib
from collections.abc import Hashable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.base import (
    Attack,
    Batch,
    Count,
    LinfAttack,
    NotNegative,
    OpenShare,
    Perturbed,
    TwoOrMore,
    naming_examples,
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
    once_per_model,
    only,
    sift,
    watch,
)
from keras_traps.models.inference import predict
from keras_traps.provenance import weights_sha256

# By how much more than the linear distance the authors' code steps, in L2.
_BEYOND = 1e-4
# How many images the model is asked about at once where no gradient is taken.
_ANSWER_BATCH = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Steps to the nearest linear boundary, until another class is answered.

    Moosavi-Dezfooli et al., DeepFool: a simple and accurate method to fool deep neural
    networks, 2016. The sum of the steps is stretched and clipped to [0, 1].
    """

    max_iter: Count = 50
    overshoot: NotNegative = 0.02  # beyond the boundary, as a share of the change
    # How many classes to look at, as the authors' code has it: those that the model
    # holds most likely on the clean image, its own among them.
    nb_candidate: TwoOrMore = 10
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


class UniversalPerturbation(NamedTuple):
    """What was learnt."""

    perturbation: FloatArray
    passes: int
    fooling_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class UAP(LinfAttack):
    """One perturbation, learnt from other images, that is added to every image.

    It is learnt without labels from the call's `background` images, and anew where the
    weights, the background, the seed or the settings are others. In each pass, which
    count as iterations, DeepFool leads the images that are not yet fooled over the
    boundary: Moosavi-Dezfooli et al., Universal adversarial perturbations, 2017,
    algorithm 1, where `nb_at_once=1`.
    """

    # It is done after the pass that fools this share of the background; where none
    # does, the best pass counts.
    fooling_rate: OpenShare = 0.3
    nb_images: Count = 5000  # how many to learn from at most, drawn by the seed
    nb_at_once: Count = 16  # images that each step looks at
    max_iter: Count = 20  # passes at most
    deepfool_max_iter: Count = 10
    overshoot: NotNegative = 0.02  # see `DeepFool`
    nb_candidate: TwoOrMore = 10  # see `DeepFool`
    name = "UAP"

    def perturb(self, batch: Batch) -> Perturbed:
        """Adds the perturbation, which the first batch learns."""
        learnt = self.learn(batch)
        images = np.clip(batch.images + learnt.perturbation, 0, 1)
        return Perturbed(images, learnt.passes)

    def learn(self, batch: Batch) -> UniversalPerturbation:
        """Learns the perturbation, or returns it if it was the model's last one."""
        draw = np.random.default_rng(batch.seed)
        chosen = draw.permutation(len(batch.background))[: self.nb_images]
        images = batch.background[chosen]
        # The images may be many, and live longer than the model: only a digest is kept.
        digest = hashlib.sha256(images.data).hexdigest()
        key = (self, batch.seed, digest, weights_sha256(batch.model))
        last = learnt_on(batch.model)
        learnt = last.get(key)
        if learnt is None:
            who = f"UAP on {batch.model.name!r}"
            with naming_examples(who, of=" of the background"):
                learnt = self._learn(batch.model, images, chosen, draw)
            last.clear()
            last[key] = learnt
        return learnt

    def _learn(
        self,
        model: keras.Model,
        images: FloatArray,
        ids: IntArray,
        draw: np.random.Generator,
    ) -> UniversalPerturbation:
        search = DeepFool(
            max_iter=self.deepfool_max_iter,
            overshoot=self.overshoot,
            nb_candidate=self.nb_candidate,
        )
        answers = _answers(model, images)
        best = perturbation = np.zeros(images.shape[1:], np.float32)
        best_rate, passes = 0.0, 0
        while passes < self.max_iter and best_rate < self.fooling_rate:
            order = draw.permutation(len(images))
            for start in range(0, len(order), self.nb_at_once):
                rows = order[start : start + self.nb_at_once]
                moved = np.clip(images[rows] + perturbation, 0, 1)
                found = search.cross(model, moved, answers[rows], ids[rows])
                # What was fooled before, or could not be, comes back as it was.
                step = (found.images.numpy() - moved).sum(axis=0)
                perturbation = np.clip(perturbation + step, -self.eps, self.eps)
            passes += 1
            moved = _answers(model, np.clip(images + perturbation, 0, 1))
            rate = float(np.mean(moved != answers))
            # The passes go up and down; the published algorithm keeps the last.
            if rate >= best_rate:
                best, best_rate = perturbation, rate
        return UniversalPerturbation(best, passes, best_rate)


def learnt_on(model: keras.Model) -> dict[Hashable, UniversalPerturbation]:
    """Returns what was learnt of a model last, by all that it depends on."""
    return once_per_model(model, "universal", lambda _: {})


def _answers(model: keras.Model, images: FloatArray) -> IntArray:
    answers = predict(model, images)
    return answers.argmax(axis=1).astype(np.int64)
