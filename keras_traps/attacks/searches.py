"""The attacks by the template of optimization: CW2, UCW2, OptMargin and EAD."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import (
    Batch,
    Count,
    Kind,
    NotNegative,
    Perturbed,
    Positive,
    TargetRule,
    in_parts,
)
from keras_traps.attacks.loop import Moments, Stream, adam, only, per_example
from keras_traps.attacks.optimization import (
    Attempt,
    Method,
    Rows,
    SearchAttack,
    Settings,
    Standing,
    State,
)

DecisionRule = Literal["EN", "L1"]
"""By what the best success is chosen: the elastic net's distance, or L1."""

# cleverhans' and the authors': keeps black and white pixels from infinity.
_SHRINK = 0.999999
# OptMargin shows the model each example with all its noises. This bounds the memory.
_IMAGES_AT_ONCE = 256


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

        noises = per_example(draw, batch.ids, batch.seed, Stream.OPTMARGIN_NOISES)
        return noises.astype(np.float32)

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
