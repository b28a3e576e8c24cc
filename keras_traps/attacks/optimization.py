"""Optimisation attacks, their template first: a distance plus c times a penalty.

An example whose loss no longer falls goes on to its next c, one that has had its last c
leaves: each is at a c and a step of its own.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import (
    Attack,
    Batch,
    Count,
    Kind,
    NotNegative,
    Perturbed,
    Positive,
    TargetRule,
    in_parts,
    numbers_of,
)
from keras_traps.attacks.loop import (
    Finished,
    Logits,
    Moments,
    Step,
    Stream,
    adam,
    apart,
    compiled,
    iterate,
    only,
    per_example,
    rivals_lead,
    rounding,
    sift,
    watch,
)

State = tuple[tf.Tensor, ...]
"""What a method keeps from step to step, one row per example."""

Settings = dict[str, tf.Tensor]
"""Hyper-parameters by their names, scalars, and `targeted`."""

DecisionRule = Literal["EN", "L1"]
"""By what the best success is chosen: the elastic net's distance, or L1."""

_LARGEST_CONSTANT = 1e10
# cleverhans' share of the loss that has to be left at most for the steps to go on.
_PROGRESS = 0.9999
# cleverhans' and the authors': keeps black and white pixels from infinity.
_SHRINK = 0.999999
# OptMargin shows the model each example with all its noises. This bounds the memory.
_IMAGES_AT_ONCE = 256


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
        infinite = tf.fill(shape, np.float32(np.inf))
        number = tf.zeros(shape, tf.int32)
        return cls(tf.fill(shape, value), tf.zeros(shape), infinite, number)

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
    It is f6 of Carlini and Wagner, 2017.
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
        """Returns `(batch,)`: 0 where the answer is the one wanted, above elsewhere."""
        settings = self.settings["targeted"], self.settings["confidence"]
        return hinge(self.logits(watch(images, ids)), labels, *settings)

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


class TanhAdam(Method):
    """Lowers the squared L2 distance plus c times a hinge; no pixel leaves [0, 1].

    Adam moves a variable whose tanh is the image.
    """

    def start(self, rows: Rows) -> State:
        """Returns the clean images in tanh space, and Adam's two empty averages."""
        variable = tf.atanh((2 * rows.images - 1) * _SHRINK)
        return variable, tf.zeros_like(variable), tf.zeros_like(variable)

    def penalty(self, images: tf.Tensor, rows: Rows) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the images cost, and whether they succeed, both `(rows,)`."""
        paid = self.hinge(images, rows.labels, rows.ids)
        return paid, paid <= 0

    def step(self, rows: Rows, state: State, standing: Standing) -> Attempt:
        """Looks at the images, and moves the variable for the next look."""
        variable, *moments = state
        squashed = tf.tanh(variable)
        images = (squashed + 1) / 2
        change = images - rows.images
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            paid, success = self.penalty(images, rows)
        slope = 2 * change + standing.weighted(tape.gradient(paid, images))
        distance = tf.reduce_sum(change**2, axis=(1, 2, 3))
        step, averages = adam(
            slope * (1 - squashed**2) / 2,
            Moments(*moments),
            tf.cast(standing.step + 1, tf.float32)[:, None, None, None],
            learning_rate=self.settings["learning_rate"],
            epsilon=1e-8,
        )
        loss = distance + standing.constant.value * paid
        return Attempt((variable - step, *averages), images, distance, success, loss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CW2(SearchAttack):
    """The smallest change in L2 that makes the answer a given class.

    Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017. The
    defaults are cleverhans'.
    """

    learning_rate: Positive = 5e-3  # Adam's step
    binary_search_steps: Count = 5
    max_iterations: Count = 1000
    initial_const: Positive = 1e-2
    name = "CW2"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"
    method = TanhAdam


class UCW2(CW2):
    """The smallest change in L2 that makes the answer another class."""

    name = "UCW2"
    kind = "UA"
    target_rule = "none"


class NoisyTanhAdam(TanhAdam):
    """Lowers the squared L2 distance plus c times the hinges of all noisy images."""

    def penalty(self, images: tf.Tensor, rows: Rows) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the sum of the hinges, and whether those that count are 0."""
        count = tf.shape(rows.draws)[1]
        noisy = tf.clip_by_value(images[:, None] + rows.draws, 0, 1)
        paid = self.hinge(
            tf.reshape(noisy, tf.concat([[-1], tf.shape(images)[1:]], axis=0)),
            tf.repeat(rows.labels, count),
            tf.repeat(rows.ids, count),
        )
        paid = tf.reshape(paid, (-1, count))
        total = tf.reduce_sum(paid, axis=1)
        # The last noise is none.
        counts = tf.where(self.settings["all_noises"], total, paid[:, -1])
        return total, counts <= 0

    def done(self, rows: Rows) -> tf.Tensor:
        """Returns `(rows,)`: whether the clean images are successes."""
        alone = super().done(rows)
        return tf.cond(
            self.settings["all_noises"],
            lambda: alone & self.penalty(rows.images, rows)[1],
            lambda: alone,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptMargin(SearchAttack):
    """A small change in L2 that makes the answer another class in the surroundings too.

    He, Li and Song, Decision boundary analysis of adversarial examples, 2018; their
    noises' root mean square is what here is the largest value. The settings are those
    of DEEPSEC for MNIST.
    """

    # How many images share in the penalty: the image itself and with one noise less
    # than that; at most one more than the image has values.
    noise_count: Count = 20
    noise_mag: Positive = 0.3  # the largest value in an example's noises
    # Whether a success has to hold for all of them, as for the authors, or for the
    # image alone, as in DEEPSEC. A clean image of which it does is kept.
    all_noises: bool = False
    learning_rate: Positive = 0.2
    binary_search_steps: Count = 4
    max_iterations: Count = 10_000
    initial_const: Positive = 0.02
    name = "OM"
    note = "Each example has noises of its own; DEEPSEC draws them once for a batch."
    method = NoisyTanhAdam

    def draws(self, batch: Batch) -> FloatArray:
        """Draws orthogonal noises of one length for each, the last of them zero."""
        shape, drawn = batch.images.shape[1:], self.noise_count - 1
        if drawn > np.prod(shape):
            raise ValueError(
                "Invalid value for argument `noise_count`. Expected at most "
                f"{np.prod(shape) + 1} for images of shape {shape}. "
                f"Received: noise_count={self.noise_count}"
            )

        def draw(generator: np.random.Generator) -> FloatArray:
            raw = generator.standard_normal((np.prod(shape), drawn), np.float32)
            noises = np.zeros((self.noise_count, *shape), np.float32)
            noises[:-1] = np.linalg.qr(raw).Q.T.reshape(-1, *shape)
            largest = np.abs(noises).max()
            return noises * np.float32(self.noise_mag / largest if drawn else 0)

        return per_example(draw, batch.ids, batch.seed, Stream.OPTMARGIN_NOISES)

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches for the nearest success, for a few examples at once."""
        size = max(1, _IMAGES_AT_ONCE // self.noise_count)
        return in_parts(batch, size, super().perturb)


class ShrinkingSteps(Method):
    """Lowers the squared L2 distance plus beta times L1 plus c times a hinge.

    Steps along the gradient of all but L1, each followed by pulling every pixel beta
    towards the clean one, with the momentum of FISTA: Chen et al., 2018, algorithm 1.
    """

    def start(self, rows: Rows) -> State:
        """Returns the images of the last step and those to step from."""
        return rows.images, rows.images

    def step(self, rows: Rows, state: State, standing: Standing) -> Attempt:
        """Makes one step, and looks at where it led."""
        before, slack = state
        beta = self.settings["beta"]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(slack)
            paid = self.hinge(slack, rows.labels, rows.ids)
        change = slack - rows.images
        gradient = 2 * change + standing.weighted(tape.gradient(paid, slack))
        l1, squared = _lengths(change)
        loss = squared + standing.constant.value * paid + beta * l1
        time = tf.cast(standing.step, tf.float32)[:, None, None, None]
        length = tf.cast(self.settings["max_iterations"], tf.float32)
        rate = self.settings["learning_rate"] * tf.sqrt(1 - time / length)
        images = _shrink(slack - rate * gradient, rows.images, beta)
        state = images, images + time / (time + 3) * (images - before)
        l1, squared = _lengths(images - rows.images)
        elastic = squared + beta * l1
        distance = tf.where(self.settings["decides_by_l1"], l1, elastic)
        # The gradient was taken elsewhere, so that this look is one more. It is spared
        # where they are no nearer than the best, and this c has succeeded before.
        matters = (distance < standing.distance) | ~standing.found
        nowhere = tf.zeros_like(matters)

        def look() -> tf.Tensor:
            found = self.hinge(*only(matters, (images, rows.labels, rows.ids))) <= 0
            return tf.tensor_scatter_nd_update(nowhere, tf.where(matters), found)

        success = tf.cond(tf.reduce_any(matters), look, lambda: nowhere)
        return Attempt(state, images, distance, success, loss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EAD(SearchAttack):
    """The smallest change, sparse as well as short, that makes the answer a class.

    Chen et al., EAD: elastic-net attacks to deep neural networks via adversarial
    examples, 2018. The defaults are cleverhans'.
    """

    beta: NotNegative = 1e-2  # weight of L1, by which a step pulls each pixel back
    decision_rule: DecisionRule = "EN"
    learning_rate: Positive = 1e-2  # the first step; later ones are shorter
    binary_search_steps: Count = 9
    max_iterations: Count = 1000
    initial_const: Positive = 1e-3
    abort_early: bool = False
    name = "EAD"
    kind = "TA"
    target_rule = "random"
    method = ShrinkingSteps

    def numbers(self) -> Settings:
        """Returns the numbers, and whether the rule is L1."""
        rule = tf.constant(self.decision_rule == "L1")
        return {**super().numbers(), "decides_by_l1": rule}


def _lengths(change: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the L1 norms and the squared L2 norms."""
    pixels = (1, 2, 3)
    return tf.reduce_sum(tf.abs(change), pixels), tf.reduce_sum(change**2, pixels)


def _shrink(images: tf.Tensor, clean: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """Pulls pixels `beta` towards the clean ones, and into [0, 1]."""
    change = images - clean
    pulled = clean + tf.sign(change) * (tf.abs(change) - beta)
    return tf.where(tf.abs(change) <= beta, clean, tf.clip_by_value(pulled, 0, 1))
