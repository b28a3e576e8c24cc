"""OptMargin: images whose neighbours are misclassified too."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import Batch, Count, Perturbed, Positive, in_parts
from keras_traps.attacks.carlini_wagner import TanhAdam
from keras_traps.attacks.loop import Stream, per_example
from keras_traps.attacks.optimization import Rows, SearchAttack

# The model is shown each example with all its noises. This bounds the memory.
_IMAGES_AT_ONCE = 256


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
