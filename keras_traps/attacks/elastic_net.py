"""The elastic-net attack."""

import dataclasses
from typing import Literal

import tensorflow as tf

from keras_traps.attacks.base import (
    Count,
    NotNegative,
    Positive,
)
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
        time = tf.cast(standing.step, tf.float32)[:, None, None, None]
        length = tf.cast(self.settings["max_iterations"], tf.float32)
        rate = self.settings["learning_rate"] * tf.sqrt(1 - time / length)
        images = _shrink(slack - rate * gradient, rows.images, beta)
        distance = self.distance(images - rows.images)
        return Attempt(
            state=(images, images + time / (time + 3) * (images - before)),
            images=images,
            distance=distance,
            success=self.success(images, rows, distance, standing),
            loss=squared + standing.constant.value * paid + beta * l1,
        )

    def distance(self, change: tf.Tensor) -> tf.Tensor:
        """Returns `(rows,)`: the length of changes by the decision rule."""
        l1, squared = _lengths(change)
        elastic = squared + self.settings["beta"] * l1
        return tf.where(self.settings["decides_by_l1"], l1, elastic)

    def success(
        self, images: tf.Tensor, rows: Rows, distance: tf.Tensor, standing: Standing
    ) -> tf.Tensor:
        """Returns whether images succeed, `(rows,)`; `False` if it does not matter."""
        # The gradient was taken elsewhere, so that this look is one more. It is spared
        # where they are no nearer than the best, and this c has succeeded before.
        matters = (distance < standing.distance) | ~standing.found
        where = tf.where(matters)

        def look() -> tf.Tensor:
            some = (
                tf.gather(part, where[:, 0]) for part in (images, rows.labels, rows.ids)
            )
            found = self.hinge(*some) <= 0
            return tf.tensor_scatter_nd_update(tf.zeros_like(matters), where, found)

        return tf.cond(tf.reduce_any(matters), look, lambda: tf.zeros_like(matters))


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
