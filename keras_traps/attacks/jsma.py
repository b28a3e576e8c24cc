"""JSMA: a few pixels to their maximum, pair by pair, by the saliency map."""

import dataclasses
import functools
import math
from typing import NamedTuple

import tensorflow as tf

from keras_traps.attacks.base import Attack, Batch, Perturbed, Share, numbers_of
from keras_traps.attacks.loop import (
    Finished,
    Logits,
    Loss,
    Step,
    apart,
    compiled,
    fooled,
    iterate,
    rivals_lead,
    sift,
    watch,
)

# DEEPSEC does not raise a pixel that is so near its maximum.
_BRIGHTEST = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    """Jacobian-based saliency map attack: raises pairs of pixels, each pixel once.

    Papernot et al., The limitations of deep learning in adversarial settings, 2016,
    algorithm 3. The map is that of the probabilities, as in cleverhans before 3.1; that
    of the outputs, as in cleverhans 3.1 and DEEPSEC, is weaker.
    """

    theta: Share = 1.0  # how much a pixel is raised, up to 1
    # About which share of the values may be changed. The number of steps is half of
    # them, rounded up, as in DEEPSEC; cleverhans rounds down. Of 784 values 80 for 0.1.
    gamma: Share = 0.1
    name = "JSMA"
    kind = "TA"
    target_rule = "random"
    losses = ("cross_entropy", "margin")
    searches = True
    note = (
        "The saliency map is that of the probabilities; that of cleverhans 3.1 and "
        "DEEPSEC is that of the outputs and reaches fewer targets."
    )

    def perturb(self, batch: Batch) -> Perturbed:
        """Raises pair after pair."""
        # Beyond rounding: 0.1 of 20 values is two of them.
        values = round(math.prod(batch.images.shape[1:]) * self.gamma, 6)
        steps, theta = math.ceil(values / 2), numbers_of(self)["theta"]
        arguments = (batch.images, batch.labels, batch.ids, theta, steps)
        search = compiled(
            batch.model,
            ("saliency search", batch.loss),
            lambda infer: _Search(infer, batch.loss).run,
            arguments,
        )
        return Perturbed(*search(*arguments))


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs."""

    position: tf.Tensor
    labels: tf.Tensor  # their targets
    ids: tf.Tensor
    clean: tf.Tensor
    images: tf.Tensor
    allowed: tf.Tensor  # (rows, values): which may still be raised


class _Search(NamedTuple):
    """The search on a model, as a graph."""

    infer: Logits
    loss: Loss

    def run(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        theta: tf.Tensor,
        steps: tf.Tensor,
    ) -> Finished:
        position = tf.range(tf.shape(images)[0])
        allowed = _flat(images) < _BRIGHTEST
        step, rows, finished = iterate(
            _Rows(position, labels, ids, images, images, allowed),
            functools.partial(self.advance, theta),
            finished=Finished(images, tf.zeros_like(position)),
            steps=steps,
        )

        def last_look() -> Finished:
            done = fooled(self.infer(rows.images), rows.labels, True)
            return finished.write(rows.position, _kept(done, rows), step)

        # Not all kernels take an empty batch.
        return tf.cond(tf.size(rows.position) > 0, last_look, lambda: finished)

    def advance(
        self, theta: tf.Tensor, step: tf.Tensor, rows: _Rows, finished: Finished
    ) -> Step[_Rows]:
        """Raises the best pair of each row, except of those that leave."""
        logits, gains = apart(self.gains)(rows)
        pair, found = best_two(gains, rows.allowed)
        done = fooled(logits, rows.labels, True)
        taken = tf.reduce_sum(tf.one_hot(pair, gains.shape[1]), axis=1)
        raised = rows.images + theta * tf.reshape(taken, tf.shape(rows.images))
        moved = rows._replace(
            images=tf.minimum(raised, 1.0), allowed=rows.allowed & (taken == 0)
        )
        result = rows.position, _kept(done, rows), step
        return step + 1, *sift(done | ~found, moved, finished, result)

    def gains(self, rows: _Rows) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the answers, and what each value adds to the target's log-odds."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows.images)
            logits = self.infer(watch(rows.images, rows.ids))
            lead = -rivals_lead(logits, rows.labels, self.loss)
        # The target's probability gains that times p (1 - p), and the others lose it.
        return logits, _flat(tape.gradient(lead, rows.images))


def best_two(gains: tf.Tensor, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the best pairs, and whether they gain anything.

    What the target gains is what the others lose, for probabilities sum to 1: the pair
    that the saliency map puts first is that of the two largest gains.
    """
    best, pair = tf.math.top_k(tf.where(allowed, gains, -float("inf")), 2)
    return pair, tf.reduce_sum(best, axis=1) > 0


def _flat(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, (-1, math.prod(images.shape[1:])))


def _kept(done: tf.Tensor, rows: _Rows) -> tf.Tensor:
    return tf.where(done[:, None, None, None], rows.images, rows.clean)
