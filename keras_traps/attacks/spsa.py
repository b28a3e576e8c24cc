"""SPSA: descent along estimates of the gradient, from answers alone."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from keras_traps._checks import check_count, check_number, check_positive
from keras_traps.attacks.base import Batch, Kind, LinfAttack, Perturbed, uniform_start
from keras_traps.attacks.loop import (
    LINF,
    Finished,
    Logits,
    Moments,
    Stream,
    adam,
    iterate,
    once_per_model,
    per_example,
    rivals_lead,
    rounding,
    sift,
)

# How many images the model is asked about at once; an example's samples stay together.
_CHUNK = 512
# cleverhans leaves it at Keras' 1e-7, beside which small logits count less.
_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class SPSA(LinfAttack):
    """Adam on gradients estimated by simultaneous perturbations; needs no gradient.

    Each step moves all pixels at once by `delta`, up or down at random, in
    `spsa_samples / 2` ways and their opposites, and averages by how much the margin
    of the true class changes. It starts at a random point of the ball.

    cleverhans' own takes one image at a time; this one takes batches.

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
        threshold = self.early_stop_loss_threshold
        if threshold is not None:
            check_number(threshold, name="early_stop_loss_threshold")

    def perturb(self, batch: Batch) -> Perturbed:
        """Descends from a random point."""
        threshold = self.early_stop_loss_threshold
        seeds = per_example(
            lambda generator: generator.integers(np.iinfo(np.int64).max),
            batch.ids,
            batch.seed,
            Stream.SPSA_SEEDS,
        )
        images = tf.TensorSpec((None, *batch.images.shape[1:]), tf.float32)
        column = tf.TensorSpec((None,), tf.int64)
        descend = once_per_model(
            batch.model,
            "estimated descent",
            lambda infer: tf.function(
                _Descent(infer).run,
                input_signature=[images, images, column, column, _SPECS],
                autograph=False,
            ),
        )
        return Perturbed(
            *descend(
                tf.constant(batch.images),
                tf.constant(uniform_start(batch, self.eps)),
                tf.constant(batch.labels),
                tf.constant(seeds, tf.int64),
                _Settings(
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
        )


class _Settings(NamedTuple):
    """Hyper-parameters, as scalar tensors; an example stops below the `threshold`."""

    eps: tf.Tensor
    nb_iter: tf.Tensor
    learning_rate: tf.Tensor
    delta: tf.Tensor
    spsa_samples: tf.Tensor
    spsa_iters: tf.Tensor
    threshold: tf.Tensor


_NUMBER, _COUNT = tf.TensorSpec((), tf.float32), tf.TensorSpec((), tf.int32)
_SPECS = _Settings(
    eps=_NUMBER,
    nb_iter=_COUNT,
    learning_rate=_NUMBER,
    delta=_NUMBER,
    spsa_samples=_COUNT,
    spsa_iters=_COUNT,
    threshold=_NUMBER,
)


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs."""

    position: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    seeds: tf.Tensor
    images: tf.Tensor
    moments: Moments


class _Descent(NamedTuple):
    """The descent on a model, as a graph."""

    infer: Logits

    def run(
        self,
        clean: tf.Tensor,
        start: tf.Tensor,
        labels: tf.Tensor,
        seeds: tf.Tensor,
        settings: _Settings,
    ) -> Finished:
        position, zeros = tf.range(tf.shape(clean)[0]), tf.zeros_like(clean)
        rows = _Rows(position, clean, labels, seeds, start, Moments(zeros, zeros))
        steps = _Steps(self.infer, settings)
        rows, finished = steps.sift(
            rows, tf.constant(0), Finished(start, tf.zeros_like(position))
        )
        step, rows, finished = iterate(
            rows, steps.advance, finished=finished, steps=settings.nb_iter
        )
        return finished.write(rows.position, rows.images, step)


class _Steps(NamedTuple):
    """What is done at each step, as a graph."""

    infer: Logits
    settings: _Settings

    def advance(
        self, step: tf.Tensor, rows: _Rows, finished: Finished
    ) -> tuple[tf.Tensor, _Rows, Finished]:
        """Makes one step of Adam with each row, after which some leave."""
        step_of_adam, moments = adam(
            self.slopes(rows, step),
            rows.moments,
            tf.cast(step + 1, tf.float32),
            learning_rate=self.settings.learning_rate,
            epsilon=_EPSILON,
        )
        images = LINF.project(rows.images - step_of_adam, rows.clean, self.settings.eps)
        moved = rows._replace(images=images, moments=moments)
        return step + 1, *self.sift(moved, step + 1, finished)

    def sift(
        self, rows: _Rows, step: tf.Tensor, finished: Finished
    ) -> tuple[_Rows, Finished]:
        """Takes out the rows whose loss is low enough."""
        logits = self.infer(rows.images)
        low = self.settings.threshold - rounding(logits, rows.labels)
        done = _margin(logits, rows.labels) < low
        return sift(done, rows, finished, (rows.position, rows.images, step))

    def slopes(self, rows: _Rows, step: tf.Tensor) -> tf.Tensor:
        """Returns the estimated gradient at each row's image, some rows at a time."""
        count = tf.size(rows.position)
        size = tf.maximum(_CHUNK // self.settings.spsa_samples, 1)
        chunks = -(-count // size)

        def estimate(
            chunk: tf.Tensor, made: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.TensorArray]:
            part = slice(chunk * size, tf.minimum((chunk + 1) * size, count))
            slopes = self.summed(
                rows.images[part], rows.labels[part], rows.seeds[part], step
            )
            return chunk + 1, made.write(chunk, slopes)

        made = tf.TensorArray(
            tf.float32, chunks, element_shape=rows.images.shape, infer_shape=False
        )
        _, made = tf.while_loop(
            lambda chunk, _: chunk < chunks, estimate, (tf.constant(0), made)
        )
        return tf.ensure_shape(made.concat(), rows.images.shape)

    def summed(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        """Returns the sum of `spsa_iters` estimates."""
        iters = self.settings.spsa_iters
        _, total = tf.while_loop(
            lambda number, _: number < iters,
            lambda number, total: (
                number + 1,
                total + self.slope(images, labels, seeds, step * iters + number),
            ),
            (tf.constant(0), tf.zeros_like(images)),
        )
        return total

    def slope(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, number: tf.Tensor
    ) -> tf.Tensor:
        """Returns one estimate for each image; `number` counts them."""
        half = self.settings.spsa_samples // 2
        rows, values = tf.shape(images)[0], math.prod(images.shape[1:])
        signs = tf.map_fn(
            lambda seed: _signs(seed, number, (half, values)),
            seeds,
            fn_output_signature=tf.TensorSpec((None, values), tf.float32),
        )
        steps = tf.reshape(self.settings.delta * signs, (rows, half, *images.shape[1:]))
        samples = tf.concat([images[:, None] + steps, images[:, None] - steps], 1)
        logits = self.infer(tf.reshape(samples, (-1, *images.shape[1:])))
        losses = _margin(logits, tf.repeat(labels, 2 * half))
        up, down = tf.unstack(tf.reshape(losses, (rows, 2, half)), axis=1)
        slopes = tf.einsum("rs,rsv->rv", (up - down) / 2, signs)
        # cleverhans divides by the step once, not twice: Adam takes any scale.
        return tf.reshape(slopes, tf.shape(images)) / tf.cast(half, tf.float32)


def _margin(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return -rivals_lead(logits, labels, "margin")


def _signs(
    seed: tf.Tensor, number: tf.Tensor, shape: tuple[tf.Tensor, int]
) -> tf.Tensor:
    both = tf.stack([seed, tf.cast(number, seed.dtype)])
    drawn = tf.random.stateless_uniform(shape, both, alg="philox")
    return tf.where(drawn < 0.5, -1.0, 1.0)
