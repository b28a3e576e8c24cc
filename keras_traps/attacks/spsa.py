"""SPSA: descent along estimates of the gradient, from answers alone."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_traps.attacks.base import (
    Batch,
    Count,
    Even,
    LinfAttack,
    Number,
    Perturbed,
    Positive,
    numbers_of,
    uniform_start,
)
from keras_traps.attacks.loop import (
    LINF,
    Finished,
    Logits,
    Moments,
    Step,
    Stream,
    adam,
    compiled,
    iterate,
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
    `spsa_samples / 2` ways and their opposites, and averages by how much the margin of
    the true class changes (Uesato et al., 2018). It starts at a random point.
    """

    nb_iter: Count
    learning_rate: Positive = 0.01
    delta: Positive = 0.01  # how far a sample is from the image in each pixel
    spsa_samples: Even = 128  # images that one estimate asks about
    spsa_iters: Count = 1  # estimates that are added up for a step
    # An example stops as soon as the true class's logit less the largest other is below
    # this: at 0.0 when it has succeeded; with `None`, cleverhans', never.
    early_stop_loss_threshold: Number | None = None
    name = "SPSA"
    knowledge = "scores"
    needs_gradient = False

    def perturb(self, batch: Batch) -> Perturbed:
        """Descends from a random point."""
        seeds = per_example(
            lambda generator: generator.integers(np.iinfo(np.int64).max),
            batch.ids,
            batch.seed,
            Stream.SPSA_SEEDS,
        )
        threshold = self.early_stop_loss_threshold
        low = -math.inf if threshold is None else threshold
        settings = {**numbers_of(self), "threshold": tf.constant(low, tf.float32)}

        def graph(infer: Logits) -> Callable[..., Finished]:
            return lambda *rows: _Descent(infer, rows[-1]).run(*rows[:-1])

        start = uniform_start(batch, self.eps)
        arguments = (batch.images, start, batch.labels, seeds, settings)
        descend = compiled(batch.model, "estimated descent", graph, arguments)
        return Perturbed(*descend(*arguments))


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
    settings: dict[str, tf.Tensor]

    def run(
        self, clean: tf.Tensor, start: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor
    ) -> Finished:
        position, zeros = tf.range(tf.shape(clean)[0]), tf.zeros_like(clean)
        rows = _Rows(position, clean, labels, seeds, start, Moments(zeros, zeros))
        rows, finished = self.sift(
            rows, tf.constant(0), Finished(start, tf.zeros_like(position))
        )
        step, rows, finished = iterate(
            rows, self.advance, finished=finished, steps=self.settings["nb_iter"]
        )
        return finished.write(rows.position, rows.images, step)

    def advance(self, step: tf.Tensor, rows: _Rows, finished: Finished) -> Step[_Rows]:
        """Makes one step of Adam with each row, after which some leave."""
        step_of_adam, moments = adam(
            self.slopes(rows, step),
            rows.moments,
            tf.cast(step + 1, tf.float32),
            learning_rate=self.settings["learning_rate"],
            epsilon=_EPSILON,
        )
        images = rows.images - step_of_adam
        images = LINF.project(images, rows.clean, self.settings["eps"])
        moved = rows._replace(images=images, moments=moments)
        return step + 1, *self.sift(moved, step + 1, finished)

    def sift(
        self, rows: _Rows, step: tf.Tensor, finished: Finished
    ) -> tuple[_Rows, Finished]:
        """Takes out the rows whose loss is low enough."""
        logits = self.infer(rows.images)
        low = self.settings["threshold"] - rounding(logits, rows.labels)
        done = -rivals_lead(logits, rows.labels, "margin") < low
        return sift(done, rows, finished, (rows.position, rows.images, step))

    def slopes(self, rows: _Rows, step: tf.Tensor) -> tf.Tensor:
        """Returns `spsa_iters` estimates' sum for each row, some rows at a time."""
        count = tf.size(rows.position)
        size = tf.maximum(_CHUNK // self.settings["spsa_samples"], 1)
        chunks = -(-count // size)
        iters = self.settings["spsa_iters"]

        def estimate(
            chunk: tf.Tensor, made: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.TensorArray]:
            part = slice(chunk * size, tf.minimum((chunk + 1) * size, count))
            shown = rows.images[part], rows.labels[part], rows.seeds[part]
            _, total = tf.while_loop(
                lambda number, _: number < iters,
                lambda number, total: (
                    number + 1,
                    total + self.slope(*shown, step * iters + number),
                ),
                (tf.constant(0), tf.zeros_like(shown[0])),
            )
            return chunk + 1, made.write(chunk, total)

        made = tf.TensorArray(
            tf.float32, chunks, element_shape=rows.images.shape, infer_shape=False
        )
        _, made = tf.while_loop(
            lambda chunk, _: chunk < chunks, estimate, (tf.constant(0), made)
        )
        return tf.ensure_shape(made.concat(), rows.images.shape)

    def slope(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, number: tf.Tensor
    ) -> tf.Tensor:
        """Returns one estimate for each image; `number` counts them."""
        half = self.settings["spsa_samples"] // 2
        rows, values = tf.shape(images)[0], math.prod(images.shape[1:])

        def draw(seed: tf.Tensor) -> tf.Tensor:
            both = tf.stack([seed, tf.cast(number, seed.dtype)])
            drawn = tf.random.stateless_uniform((half, values), both, alg="philox")
            return tf.where(drawn < 0.5, -1.0, 1.0)

        kind = tf.TensorSpec((None, values), tf.float32)
        signs = tf.map_fn(draw, seeds, fn_output_signature=kind)
        steps = tf.reshape(
            self.settings["delta"] * signs, (rows, half, *images.shape[1:])
        )
        samples = tf.concat([images[:, None] + steps, images[:, None] - steps], 1)
        logits = self.infer(tf.reshape(samples, (-1, *images.shape[1:])))
        losses = -rivals_lead(logits, tf.repeat(labels, 2 * half), "margin")
        up, down = tf.unstack(tf.reshape(losses, (rows, 2, half)), axis=1)
        slopes = tf.einsum("rs,rsv->rv", (up - down) / 2, signs)
        # cleverhans divides by the step once, not twice: Adam takes any scale.
        return tf.reshape(slopes, tf.shape(images)) / tf.cast(half, tf.float32)
