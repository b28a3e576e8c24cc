"""Carlini and Wagner's attack in L2: Adam on a variable whose tanh is the image."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from keras_traps.attacks.base import Count, Kind, Positive, TargetRule
from keras_traps.attacks.loop import Moments, adam
from keras_traps.attacks.optimization import (
    Attempt,
    Method,
    Rows,
    SearchAttack,
    Standing,
    State,
)

# cleverhans' and the authors': keeps black and white pixels from infinity.
_SHRINK = 0.999999


class TanhAdam(Method):
    """Lowers the squared L2 distance plus c times a hinge; no pixel leaves [0, 1]."""

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
        return Attempt(
            state=(variable - step, *averages),
            images=images,
            distance=distance,
            success=success,
            loss=distance + standing.constant.value * paid,
        )


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
