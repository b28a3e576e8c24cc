"""SPSA: descent along estimates of the gradient, from answers alone."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from keras_traps._checks import check_count, check_number, check_positive
from keras_traps.attacks.base import Batch, Kind, Perturbed
from keras_traps.attacks.estimated_descent import DescentSettings, estimated_descent
from keras_traps.attacks.linf import LinfAttack, uniform_start
from keras_traps.attacks.randomness import Stream, per_example


@dataclasses.dataclass(frozen=True, kw_only=True)
class SPSA(LinfAttack):
    """Adam on gradients estimated by simultaneous perturbations; needs no gradient.

    Each step moves all pixels at once by `delta`, up or down at random, in
    `spsa_samples / 2` ways and their opposites, and averages by how much the margin
    of the true class changes. It starts at a random point of the ball.

    cleverhans' own raises on Keras 3 and takes one image at a time; this one takes
    batches.

    Args:
        nb_iter: How many steps of Adam, at least 1.
        learning_rate: Adam's, above 0. Defaults to `0.01`.
        delta: How far a sample is from the image in each pixel, above 0. Defaults to
            `0.01`.
        spsa_samples: How many images the model is asked about for one estimate: even,
            at least 2. Defaults to `128`.
        spsa_iters: How many estimates are added up for a step, at least 1. Defaults to
            `1`.
        early_stop_loss_threshold: An example stops as soon as the margin, the true
            class's logit less the largest other, is below this: at `0.0` when it has
            succeeded. Defaults to `None`, cleverhans': never.

    Reference:
        Uesato et al., Adversarial risk and the dangers of evaluating against weak
        attacks, 2018.
    """

    nb_iter: int
    learning_rate: float = 0.01
    delta: float = 0.01
    spsa_samples: int = 128
    spsa_iters: int = 1
    early_stop_loss_threshold: float | None = None
    name: ClassVar[str] = "SPSA"
    kind: ClassVar[Kind] = "UA"
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_count("nb_iter", self.nb_iter)
        check_positive("learning_rate", self.learning_rate)
        check_positive("delta", self.delta)
        check_count("spsa_samples", self.spsa_samples, at_least=2)
        if self.spsa_samples % 2:
            raise ValueError(
                "Invalid value for argument `spsa_samples`. Expected an even number. "
                f"Received: spsa_samples={self.spsa_samples}"
            )
        check_count("spsa_iters", self.spsa_iters)
        if self.early_stop_loss_threshold is not None:
            check_number(
                self.early_stop_loss_threshold, name="early_stop_loss_threshold"
            )

    def perturb(self, batch: Batch) -> Perturbed:
        """Descends from a random point."""
        threshold = self.early_stop_loss_threshold
        seeds = per_example(
            lambda generator: generator.integers(np.iinfo(np.int64).max),
            batch.ids,
            batch.seed,
            Stream.SPSA_SEEDS,
        )
        images, iterations = estimated_descent(batch.model)(
            tf.constant(batch.images),
            tf.constant(uniform_start(batch, self.eps)),
            tf.constant(batch.labels),
            tf.constant(seeds, tf.int64),
            DescentSettings(
                eps=tf.constant(self.eps, tf.float32),
                nb_iter=tf.constant(self.nb_iter),
                learning_rate=tf.constant(self.learning_rate, tf.float32),
                delta=tf.constant(self.delta, tf.float32),
                spsa_samples=tf.constant(self.spsa_samples),
                spsa_iters=tf.constant(self.spsa_iters),
                threshold=tf.constant(
                    -math.inf if threshold is None else threshold, tf.float32
                ),
            ),
        )
        return Perturbed(images, iterations)
