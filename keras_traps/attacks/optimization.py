"""The template of optimisation attacks: a distance plus c times a penalty, for many c.

An example whose loss no longer falls goes on to its next c, one that has had its last c
leaves: each is at a c and a step of its own.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import (
    Attack,
    Batch,
    Count,
    NotNegative,
    Perturbed,
    Positive,
    numbers_of,
)
from keras_traps.attacks.loop import (
    Finished,
    Logits,
    Step,
    apart,
    compiled,
    iterate,
    only,
    rivals_lead,
    rounding,
    sift,
    watch,
)

State = tuple[tf.Tensor, ...]
"""What a method keeps from step to step, one row per example."""

Settings = dict[str, tf.Tensor]
"""Hyper-parameters by their names, scalars, and `targeted`."""

_LARGEST_CONSTANT = 1e10
# cleverhans' share of the loss that has to be left at most for the steps to go on.
_PROGRESS = 0.9999


class Constant(NamedTuple):
    """Where each example stands in its search over c."""

    value: tf.Tensor
    lower: tf.Tensor
    upper: tf.Tensor
    number: tf.Tensor

    @classmethod
    def first(cls, value: tf.Tensor, count: tf.Tensor) -> "Constant":
        """Returns the start of the search of `count` examples at one c."""
        shape = tf.reshape(count, (1,))
        return cls(
            value=tf.fill(shape, value),
            lower=tf.zeros(shape),
            upper=tf.fill(shape, np.float32(np.inf)),
            number=tf.zeros(shape, tf.int32),
        )

    def next(self, found: tf.Tensor, searches: tf.Tensor) -> "Constant":
        """Returns the c to try next, of so many `searches`, where this one has `found`.

        Ten times the last one as long as none has succeeded, then the middle between
        the largest that failed and the smallest that succeeded. The last of ten or more
        searches takes 1e10 where none has succeeded, so that only the penalty counts;
        where one has, cleverhans repeats that one: here it goes on to the middle.
        """
        upper = tf.where(found, tf.minimum(self.upper, self.value), self.upper)
        lower = tf.where(found, self.lower, tf.maximum(self.lower, self.value))
        number = self.number + 1
        desperate = (searches >= 10) & (number == searches - 1)
        ten_times = tf.minimum(10 * self.value, _LARGEST_CONSTANT)
        larger = tf.where(desperate, _LARGEST_CONSTANT, ten_times)
        value = tf.where(tf.math.is_inf(upper), larger, (lower + upper) / 2)
        return Constant(value, lower, upper, number)


def hinge(
    logits: tf.Tensor, labels: tf.Tensor, targeted: tf.Tensor, confidence: tf.Tensor
) -> tf.Tensor:
    r"""Returns `(rows,)`: how far the answer is from the one that is wanted.

    $$f(x') = \max(\max_{i \ne t} Z(x')_i - Z(x')_t + \kappa, 0)$$

    towards class t, and the same with the difference the other way round away from it.
    Kappa, the `confidence`, is raised by `rounding`: where f is 0, the answer is the
    one that is wanted in a batch of any size.

    Reference:
        Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017,
        function f6.
    """
    lead = rivals_lead(logits, labels, "margin")
    missing = tf.where(targeted, lead, -lead) + confidence + rounding(logits, labels)
    return tf.maximum(missing, 0)


class Rows(NamedTuple):
    """The examples that are still worked on."""

    position: tf.Tensor
    images: tf.Tensor
    labels: tf.Tensor
    ids: tf.Tensor
    draws: tf.Tensor


class Standing(NamedTuple):
    """How far each example has come."""

    constant: Constant
    step: tf.Tensor
    found: tf.Tensor
    losses: tf.Tensor
    before: tf.Tensor
    best: tf.Tensor
    distance: tf.Tensor
    iterations: tf.Tensor

    def weighted(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns c times the gradient of a penalty."""
        # Not the gradient of c times the penalty: on its way back through a model of
        # half precision a large c is infinite, and a small one 0.
        return self.constant.value[:, None, None, None] * gradient


UnderWay = tuple[Rows, State, Standing]


class Attempt(NamedTuple):
    """What a step came to."""

    state: State
    images: tf.Tensor
    distance: tf.Tensor
    success: tf.Tensor
    loss: tf.Tensor


class Method(abc.ABC):
    """The search on a model, as a graph, of which a method says how a step is made."""

    def __init__(self, logits: Logits, settings: Settings) -> None:
        self.logits = logits
        self.settings = settings

    @abc.abstractmethod
    def start(self, rows: Rows) -> State:
        """Returns the state before the first step with a c."""

    @abc.abstractmethod
    def step(self, rows: Rows, state: State, standing: Standing) -> Attempt:
        """Makes one step for every row."""

    def done(self, rows: Rows) -> tf.Tensor:
        """Returns `(rows,)`: whether the clean images are successes, and are kept."""
        return self.hinge(rows.images, rows.labels, rows.ids) <= 0

    def hinge(self, images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Returns `(batch,)`: 0 where the answer is the one wanted, above elsewhere.

        Its gradient, if not finite, names the examples.
        """
        return hinge(
            self.logits(watch(images, ids)),
            labels,
            self.settings["targeted"],
            self.settings["confidence"],
        )

    def run(self, rows: Rows) -> Finished:
        """Searches for the nearest success of each row."""
        finished = Finished(rows.images, tf.zeros_like(rows.position))
        rows = only(~self.done(rows), rows)
        under_way = rows, self.start(rows), _fresh(rows, self.settings)
        return iterate(under_way, self.advance, finished=finished)[-1]

    def advance(
        self, number: tf.Tensor, under_way: UnderWay, finished: Finished
    ) -> Step[UnderWay]:
        """Makes one step, after which some examples go on to another c or leave."""
        rows, state, standing = under_way
        attempt = apart(self.step)(rows, state, standing)
        better = attempt.success & (attempt.distance < standing.distance)
        step = standing.step + 1
        losses = standing.losses + attempt.loss
        limit = self.settings["max_iterations"]
        # cleverhans compares the loss at two moments. Their means over a tenth of the
        # steps each are not misled by Adam's first steps, which raise the loss, nor by
        # swings across the boundary.
        looked = step % tf.maximum(limit // 10, 1) == 0
        stuck = looked & (losses > _PROGRESS * standing.before)
        ended = (step == limit) | (stuck & self.settings["abort_early"])
        standing = standing._replace(
            step=step,
            found=standing.found | attempt.success,
            losses=tf.where(looked, 0.0, losses),
            before=tf.where(looked, losses, standing.before),
            best=_choose(better, attempt.images, standing.best),
            distance=tf.where(better, attempt.distance, standing.distance),
            iterations=standing.iterations + 1,
        )
        under_way = rows, attempt.state, standing
        under_way, finished = tf.cond(
            tf.reduce_any(ended),
            lambda: self.turn(ended, under_way, finished),
            lambda: (under_way, finished),
        )
        return number + 1, under_way, finished

    def turn(
        self, ended: tf.Tensor, under_way: UnderWay, finished: Finished
    ) -> tuple[UnderWay, Finished]:
        """Begins anew with another c where one has `ended`; the last ones leave."""
        rows, state, standing = under_way
        searches = self.settings["binary_search_steps"]
        anew = _fresh(rows, self.settings)._replace(
            constant=standing.constant.next(standing.found, searches),
            best=standing.best,
            distance=standing.distance,
            iterations=standing.iterations,
        )
        state, standing = _choose(ended, (self.start(rows), anew), (state, standing))
        return sift(
            standing.constant.number == searches,
            (rows, state, standing),
            finished,
            (rows.position, standing.best, standing.iterations),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchAttack(Attack, abc.ABC):
    """An attack that minimises a distance plus c times a penalty, for several c."""

    initial_const: Positive  # the first c
    binary_search_steps: Count  # how many c to try
    max_iterations: Count  # steps with each c at most
    learning_rate: Positive
    confidence: NotNegative = 0.0  # by how much the answer that is wanted has to lead
    # Whether an example goes on to its next c when a tenth of the steps has not lowered
    # its mean loss by 0.01 %.
    abort_early: bool = True
    searches = True
    method: ClassVar[type[Method]]

    def draws(self, batch: Batch) -> FloatArray:
        """Returns what is drawn at random, `(batch, count, ...)`. Here nothing."""
        return np.zeros((len(batch.images), 0), np.float32)

    def numbers(self) -> Settings:
        """Returns the hyper-parameters as the loop takes them."""
        return {**numbers_of(self), "targeted": tf.constant(self.targeted)}

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches for the nearest success."""
        method = self.method

        def graph(logits: Logits) -> Callable[..., Finished]:
            return lambda rows, settings: method(logits, settings).run(rows)

        position = np.arange(len(batch.ids), dtype=np.int32)
        draws = self.draws(batch)
        rows = Rows(position, batch.images, batch.labels, batch.ids, draws)
        arguments = (rows, self.numbers())
        search = compiled(batch.model, ("search", method), graph, arguments)
        return Perturbed(*search(*arguments))


def _fresh(rows: Rows, settings: Settings) -> Standing:
    """Returns how far examples have come that have made no step."""
    zeros = tf.zeros_like(rows.position)
    largest = tf.fill(tf.shape(zeros), tf.float32.max)
    return Standing(
        constant=Constant.first(settings["initial_const"], tf.size(zeros)),
        step=zeros,
        found=tf.zeros_like(zeros, tf.bool),
        losses=tf.zeros_like(largest),
        before=largest,
        best=rows.images,
        distance=largest,
        iterations=zeros,
    )


def _choose(mask: tf.Tensor, one: Any, other: Any) -> Any:
    def choose(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        sizes = tf.concat([tf.shape(mask), tf.ones(one.shape.rank - 1, tf.int32)], 0)
        return tf.where(tf.reshape(mask, sizes), one, other)

    return tf.nest.map_structure(choose, one, other)
