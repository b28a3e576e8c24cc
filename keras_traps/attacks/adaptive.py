"""Attacks on a model together with its detector, whose score has a gradient."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import (
    Batch,
    Count,
    LinfAttack,
    NormName,
    NotNegative,
    Perturbed,
    Positive,
    ball_noise,
    numbers_of,
)
from keras_traps.attacks.gradient import check_step
from keras_traps.attacks.loop import (
    LINF,
    Logits,
    Loss,
    apart,
    compiled,
    fooled,
    normalised,
    rivals_lead,
    watch,
)
from keras_traps.attacks.watched import Watched

# By how much lambda changes in a search that knows no bound on that side yet.
_FACTOR = 10.0


class Slopes(NamedTuple):
    """What a step is made of; the first axis is the examples'."""

    lead: tf.Tensor  # gradient of the rivals' lead, which is to rise
    score: tf.Tensor  # gradient of the detector's score, which is to fall
    fooled: tf.Tensor  # `(rows,)`, bool: whether another class leads by enough
    weight: tf.Tensor  # `(rows,)`: lambda


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveAttack(LinfAttack, abc.ABC):
    """The template: steps towards images that fool a classifier and do not alarm.

    All steps are made. The result is, of the images on the way that fool the
    classifier, the one of the lowest score; where there is none, the last image. The
    first run starts at the clean image, the other ones at random points of the ball.
    Steps shrink evenly towards 0: long ones do not find the narrow valleys of a score,
    and the authors' are all of one length.
    """

    # The first step, at most `eps`; a tenth of it where it is `None`.
    eps_iter: Positive | None = None
    nb_iter: Count = 100
    nb_restarts: Count = 1
    # Linf: steps of the direction's sign. L2: along the direction itself, so long that
    # `eps_iter` is the root mean square of the pixels' changes.
    norm: NormName = "L2"
    # By how much another class has to lead before the classifier counts as fooled to
    # the steps: as a share of how far the true class leads at the clean image. More
    # than 0 where the score looks at that lead too.
    confidence: NotNegative = 0.0
    losses = ("cross_entropy", "margin")
    knowledge = "everything"
    takes_detector = True
    needs_detector = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step(self._step, self.eps)

    @property
    def _step(self) -> float:
        return self.eps / 10 if self.eps_iter is None else self.eps_iter

    @staticmethod
    @abc.abstractmethod
    def direction(slopes: Slopes) -> tf.Tensor:
        """Returns where to go."""

    def _search(self) -> dict[str, tf.Tensor]:
        return {
            "binary_search_steps": tf.constant(1),
            "initial_const": tf.constant(1.0),
        }

    def perturb(self, batch: Batch) -> Perturbed:
        """Runs from each start."""
        # A call without a detector is refused.
        watched = cast(Watched, batch.watched)
        settings = {**self._search(), **numbers_of(self)}
        settings["eps_iter"] = tf.constant(self._step, tf.float32)
        starts = self._starts(batch)
        arguments = (batch.images, starts, batch.labels, batch.ids, settings)
        score = watched.differentiable()
        direction, loss, signs = type(self).direction, batch.loss, self.norm == "Linf"
        loop = compiled(
            batch.model,
            (direction, loss, signs, watched.key),
            lambda infer: _Walk(infer, score, direction, loss, signs).run,
            arguments,
        )
        rounds = self.nb_restarts * int(settings["binary_search_steps"])
        return Perturbed(loop(*arguments), rounds * self.nb_iter)

    def _starts(self, batch: Batch) -> FloatArray:
        """Returns `(nb_restarts, batch, ...)`: the images, and random points."""
        others = self.nb_restarts - 1
        noise = ball_noise(
            batch, lambda shape, draw: draw.uniform(-1, 1, (others, *shape))
        )
        moved = batch.images + np.float32(self.eps) * np.moveaxis(noise, 1, 0)
        return np.concatenate([batch.images[None], np.clip(moved, 0, 1)])


class SelectivePGD(AdaptiveAttack):
    """A step on the classifier until it is fooled, then one on the detector.

    Bryniarski et al., Evading Adversarial Example Detection Defenses with Orthogonal
    Projected Gradient Descent, 2022, section 3: no weight lies between the two.
    """

    name = "SelectivePGD"

    @staticmethod
    def direction(slopes: Slopes) -> tf.Tensor:
        """Returns either gradient."""
        return tf.where(slopes.fooled[:, None, None, None], -slopes.score, slopes.lead)


class OrthogonalPGD(AdaptiveAttack):
    """The same with steps that leave the other objective as it is, to first order.

    Bryniarski et al., 2022, equation 6 as the sentence below it and the code have it:
    each gradient is freed of its part along the other one.
    """

    name = "OrthogonalPGD"

    @staticmethod
    def direction(slopes: Slopes) -> tf.Tensor:
        """Returns the part of either gradient that is orthogonal to the other one."""
        lead, score = normalised(slopes.lead)[1], normalised(slopes.score)[1]
        shared = tf.reduce_sum(lead * score, axis=(1, 2, 3), keepdims=True)
        fooled = slopes.fooled[:, None, None, None]
        return tf.where(fooled, shared * lead - score, lead - shared * score)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LagrangianPGD(AdaptiveAttack):
    """Steps on both at once: the rivals' lead less lambda times the score.

    Lambda is searched for each example as Carlini and Wagner search their c: a run that
    ends where the classifier is fooled is followed by one with a larger lambda, any
    other by one with a smaller one; between two bounds comes their geometric mean.
    """

    binary_search_steps: Count = 5  # runs from each start; with 1 lambda is fixed
    initial_const: Positive = 1.0  # lambda at first, in logits by unit of the score
    name = "LagrangianPGD"

    @staticmethod
    def direction(slopes: Slopes) -> tf.Tensor:
        """Returns the gradient of both."""
        return slopes.lead - slopes.weight[:, None, None, None] * slopes.score


class _Best(NamedTuple):
    """Of each example the image that fools with the lowest score; infinite for none."""

    images: tf.Tensor
    score: tf.Tensor


class _Search(NamedTuple):
    """Lambda, and what it is known to lie between; 0 and infinity for nothing."""

    weight: tf.Tensor
    low: tf.Tensor
    high: tf.Tensor


class _Walk(NamedTuple):
    """The loop on a model and a detector, as a graph."""

    infer: Logits
    score: Callable[[tf.Tensor], tf.Tensor]
    direction: Callable[[Slopes], tf.Tensor]
    loss: Loss
    signs: bool

    def run(
        self,
        clean: tf.Tensor,
        starts: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        settings: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        searches = settings["binary_search_steps"]
        ones = tf.ones_like(labels, tf.float32)
        fresh = _Search(settings["initial_const"] * ones, 0 * ones, math.inf * ones)
        nb_iter = tf.cast(settings["nb_iter"], tf.float32)
        ahead = -rivals_lead(self.infer(clean), labels, "margin")
        needed = settings["confidence"] * tf.maximum(ahead, 0.0)

        def go(
            number: tf.Tensor, best: _Best, search: _Search
        ) -> tuple[tf.Tensor, _Best, _Search]:
            search = tf.cond(number % searches == 0, lambda: fresh, lambda: search)
            start = starts[number // searches]

            def step(
                count: tf.Tensor, images: tf.Tensor, best: _Best
            ) -> tuple[tf.Tensor, tf.Tensor, _Best]:
                slopes, done, score = apart(self.look)(
                    images, labels, ids, needed, search.weight
                )
                best = _better(best, images, done, score)
                left = tf.cast(settings["nb_iter"] - count, tf.float32)
                length = settings["eps_iter"] * left / nb_iter
                moved = images + length * self.unit(slopes)
                images = LINF.project(moved, clean, settings["eps"])
                return count + 1, images, best

            _, last, best = tf.while_loop(
                lambda count, *_: count < settings["nb_iter"],
                step,
                (tf.constant(0), start, best),
            )
            logits = self.infer(last)
            best = _better(best, last, fooled(logits, labels, False), self.score(last))
            none = tf.math.is_inf(best.score)[:, None, None, None]
            best = best._replace(images=tf.where(none, last, best.images))
            met = rivals_lead(logits, labels, "margin") > needed
            return number + 1, best, _next(search, met)

        _, best, _ = tf.while_loop(
            lambda number, *_: number < tf.shape(starts)[0] * searches,
            go,
            (tf.constant(0), _Best(clean, math.inf * ones), fresh),
        )
        return best.images

    def look(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        ids: tf.Tensor,
        needed: tf.Tensor,
        weight: tf.Tensor,
    ) -> tuple[Slopes, tf.Tensor, tf.Tensor]:
        """Returns what a step is made of, whether images fool, and their scores."""
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            shown = watch(images, ids)
            logits, score = self.infer(shown), self.score(shown)
            lead = rivals_lead(logits, labels, self.loss)
        rise, fall = (tape.gradient(one, images) for one in (lead, score))
        if fall is None:
            raise ValueError(
                "Invalid value for argument `detector`. Expected one whose `tf_score` "
                "has a gradient. Received: one of which it is None"
            )
        done = fooled(logits, labels, False)
        enough = done & (rivals_lead(logits, labels, "margin") > needed)
        return Slopes(rise, fall, enough, weight), done, score

    def unit(self, slopes: Slopes) -> tf.Tensor:
        """Returns a step of size 1 in each pixel, or on average over them."""
        direction = self.direction(slopes)
        if self.signs:
            return tf.sign(direction)
        return math.sqrt(math.prod(direction.shape[1:])) * normalised(direction)[1]


def _better(best: _Best, images: tf.Tensor, done: tf.Tensor, score: tf.Tensor) -> _Best:
    better = done & (score < best.score)
    return _Best(
        tf.where(better[:, None, None, None], images, best.images),
        tf.where(better, score, best.score),
    )


def _next(search: _Search, met: tf.Tensor) -> _Search:
    """Returns the search with the next lambda, larger where the last one `met`."""
    low = tf.where(met, search.weight, search.low)
    high = tf.where(met, search.high, search.weight)
    weight = tf.where(met, search.weight * _FACTOR, search.weight / _FACTOR)
    between = (low > 0) & tf.math.is_finite(high)
    weight = tf.where(between, tf.sqrt(low * high), weight)
    return _Search(weight, low, high)
