"""JSMA: a few pixels to their maximum, pair by pair, by the saliency map."""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

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

Saliency = Literal["probabilities", "logits"]
"""Whose derivatives the saliency map is made of."""

# DEEPSEC does not raise a pixel that is so near its maximum.
_BRIGHTEST = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    """Jacobian-based saliency map attack: raises pairs of pixels, each pixel once.

    Papernot et al., The limitations of deep learning in adversarial settings, 2016. The
    map is that of the probabilities, as in cleverhans before 3.1, or of the outputs, as
    in cleverhans 3.1 and DEEPSEC, which is weaker.
    """

    theta: Share = 1.0  # how much a pixel is raised, up to 1
    # About which share of the values may be changed. The number of steps is half of
    # them, rounded up, as in DEEPSEC; cleverhans rounds down. Of 784 values 80 for 0.1.
    gamma: Share = 0.1
    saliency: Saliency = "probabilities"  # whose map; that of logits follows no loss
    name = "JSMA"
    kind = "TA"
    target_rule = "random"
    losses = ("cross_entropy", "margin")
    searches = True
    note = (
        "The saliency map is that of the probabilities; that of cleverhans 3.1 and "
        "DEEPSEC is that of the outputs and reaches fewer targets."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.saliency == "logits":
            object.__setattr__(self, "losses", ())

    def perturb(self, batch: Batch) -> Perturbed:
        """Raises pair after pair."""
        # Beyond rounding: 0.1 of 20 values is two of them.
        values = round(math.prod(batch.images.shape[1:]) * self.gamma, 6)
        steps, theta = math.ceil(values / 2), numbers_of(self)["theta"]
        arguments = (batch.images, batch.labels, batch.ids, theta, steps)
        search = compiled(
            batch.model,
            ("saliency search", self.saliency, batch.loss),
            lambda infer: _Search(infer, self.saliency, batch.loss).run,
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
    saliency: Saliency
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
        logits, target, others = apart(self.derivatives)(rows)
        if self.saliency == "logits":
            pair, found = best_pairs(target, others, rows.allowed)
        else:
            pair, found = best_two(target, rows.allowed)
        done = fooled(logits, rows.labels, True)
        taken = tf.reduce_sum(tf.one_hot(pair, target.shape[1]), axis=1)
        raised = rows.images + theta * tf.reshape(taken, tf.shape(rows.images))
        moved = rows._replace(
            images=tf.minimum(raised, 1.0), allowed=rows.allowed & (taken == 0)
        )
        result = rows.position, _kept(done, rows), step
        return step + 1, *sift(done | ~found, moved, finished, result)

    def derivatives(self, rows: _Rows) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the answers, and the derivatives of the target and of the others."""
        with tf.GradientTape(True, watch_accessed_variables=False) as tape:
            tape.watch(rows.images)
            logits = self.infer(watch(rows.images, rows.ids))
            lead = -rivals_lead(logits, rows.labels, self.loss)
            target = tf.gather(logits, rows.labels, batch_dims=1)
            others = tf.reduce_sum(logits, axis=1) - target
        if self.saliency == "logits":
            slopes = [tape.gradient(value, rows.images) for value in (target, others)]
            return logits, _flat(slopes[0]), _flat(slopes[1])
        # A probability's derivative is that of its log-odds times p (1 - p), and the
        # others' is minus that.
        ascent = _flat(tape.gradient(lead, rows.images))
        return logits, ascent, -ascent


def best_two(target: tf.Tensor, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the best pairs where what the target gains is what the others lose.

    So it is with probabilities, whose derivatives sum to 0: the two largest are best.
    """
    gains, pair = tf.math.top_k(tf.where(allowed, target, -float("inf")), 2)
    return pair, tf.reduce_sum(gains, axis=1) > 0


def best_pairs(
    target: tf.Tensor, others: tf.Tensor, allowed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Finds the two features that are most worth to raise; returns as `best_two`.

    $$\arg\max_{p \ne q} (\alpha_p + \alpha_q) |\beta_p + \beta_q|
    \quad\text{among}\quad \alpha_p + \alpha_q > 0,\ \beta_p + \beta_q < 0$$

    with alpha, the derivatives of the target's output, and beta, those of the sum of
    the others: Papernot et al., 2016, algorithm 3.
    """
    # The map of all pairs has no place in memory, and needs none. The value grows with
    # alpha and with minus beta. In the order of falling alpha, let two features before
    # q have no larger beta than q: one of them is not p, and taken for q it makes the
    # pair no worse. So a best pair is among the features before which fewer than two
    # are at least as good in both; all pairs of these some dozens are compared.
    # Of a scale at which products neither vanish nor overflow.
    rise, fall = _scaled(target, allowed), _scaled(-others, allowed)
    order = tf.argsort(rise, axis=1, direction="DESCENDING", stable=True)
    falls = tf.gather(fall, order, batch_dims=1)
    largest = _largest_before(falls)
    kept = falls > _largest_before(tf.minimum(falls, largest))
    number = tf.reduce_max(tf.math.count_nonzero(kept, axis=1, dtype=tf.int32))
    _, places = tf.math.top_k(tf.cast(kept, tf.int32), number)
    # Where a row has fewer candidates, the others repeat what is no better.
    candidates = tf.gather(order, places, batch_dims=1)

    def best_of(row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        rise, fall = row
        rises, falls = rise[:, None] + rise, fall[:, None] + fall
        fit = (rises > 0) & (falls > 0) & ~tf.eye(number, dtype=tf.bool)
        values = tf.reshape(tf.where(fit, rises * falls, 0.0), (-1,))
        place = tf.argmax(values, output_type=tf.int32)
        return tf.stack([place // number, place % number]), values[place] > 0

    # Row by row: where nearly all features are candidates, the pairs of one are enough.
    pair, found = tf.map_fn(
        best_of,
        (
            tf.gather(rise, candidates, batch_dims=1),
            tf.gather(fall, candidates, batch_dims=1),
        ),
        fn_output_signature=(tf.TensorSpec((2,), tf.int32), tf.TensorSpec((), tf.bool)),
    )
    return tf.gather(candidates, pair, batch_dims=1), found


def _scaled(values: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    size = tf.reduce_max(tf.abs(values), axis=1, keepdims=True)
    scaled = tf.math.divide_no_nan(values, size)
    return tf.where(allowed, scaled, -4.0)


def _largest_before(values: tf.Tensor) -> tf.Tensor:
    """Returns for each column the largest value of the columns before it."""
    lowest = values.dtype.min
    shifted = tf.pad(values[:, :-1], [(0, 0), (1, 0)], constant_values=lowest)
    step = 1
    while step < values.shape[1]:
        before = tf.pad(shifted[:, :-step], [(0, 0), (step, 0)], constant_values=lowest)
        shifted = tf.maximum(shifted, before)
        step *= 2
    return shifted


def _flat(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, (-1, math.prod(images.shape[1:])))


def _kept(done: tf.Tensor, rows: _Rows) -> tf.Tensor:
    return tf.where(done[:, None, None, None], rows.images, rows.clean)
