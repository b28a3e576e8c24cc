"""The compiled loop of SPSA."""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_traps.attacks.loop import once_per_model
from keras_traps.attacks.losses import Logits, rivals_lead
from keras_traps.attacks.norms import LINF
from keras_traps.attacks.rows import Finished, only
from keras_traps.attacks.success import rounding

# Adam's constants. cleverhans leaves the last one at Keras' 1e-7, beside which small
# logits count less.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-12

# How many images the model is asked about at once; an example's samples stay together.
_CHUNK = 512


class DescentSettings(NamedTuple):
    """Hyper-parameters, as scalar tensors.

    Args:
        eps: Radius of the L-infinity ball, float32.
        nb_iter: How many steps, int32.
        learning_rate: Adam's, float32.
        delta: How far samples are from an image in each pixel, float32.
        spsa_samples: How many samples make an estimate, int32, even.
        spsa_iters: How many estimates are added up for a step, int32.
        threshold: Below which loss an example stops, float32.
    """

    eps: tf.Tensor
    nb_iter: tf.Tensor
    learning_rate: tf.Tensor
    delta: tf.Tensor
    spsa_samples: tf.Tensor
    spsa_iters: tf.Tensor
    threshold: tf.Tensor


_NUMBER, _COUNT = tf.TensorSpec((), tf.float32), tf.TensorSpec((), tf.int32)
_SPECS = DescentSettings(
    eps=_NUMBER,
    nb_iter=_COUNT,
    learning_rate=_NUMBER,
    delta=_NUMBER,
    spsa_samples=_COUNT,
    spsa_iters=_COUNT,
    threshold=_NUMBER,
)


def estimated_descent(model: keras.Model) -> Callable[..., Finished]:
    """Returns the descent for a model, compiled once.

    Args:
        model: A built model of logits or scores; it needs no gradient.

    Returns:
        A function of images `(batch, height, width, channels)`, float32, in [0, 1];
        the images to start from; classes to leave, `(batch,)`, int64; a seed for each
        example, `(batch,)`, int64; and `DescentSettings`.
    """
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    column = tf.TensorSpec((None,), tf.int64)

    def build(infer: Logits) -> Callable[..., Finished]:
        @tf.function(
            input_signature=[images, images, column, column, _SPECS], autograph=False
        )
        def descend(
            clean: tf.Tensor,
            start: tf.Tensor,
            labels: tf.Tensor,
            seeds: tf.Tensor,
            settings: DescentSettings,
        ) -> Finished:
            position = tf.range(tf.shape(clean)[0])
            nothing = tf.zeros_like(clean)
            rows = _Rows(position, clean, labels, seeds, start, nothing, nothing)
            return _Descent(infer, settings).run(rows)

        # Traced here once and for all, and not counted among its callers' retracings.
        descend.get_concrete_function()
        return descend

    return once_per_model(model, "estimated descent", build)


class _Rows(NamedTuple):
    """The examples that are still worked on; the first axis is theirs.

    Args:
        position: Where in the batch they are.
        clean: Their clean images.
        labels: Their true classes.
        seeds: Their seeds.
        images: Where they are.
        mean: Adam's mean of gradients.
        square: Adam's mean of their squares.
    """

    position: tf.Tensor
    clean: tf.Tensor
    labels: tf.Tensor
    seeds: tf.Tensor
    images: tf.Tensor
    mean: tf.Tensor
    square: tf.Tensor


class _Descent:
    """The loop as a graph."""

    def __init__(self, infer: Logits, settings: DescentSettings) -> None:
        self.infer = infer
        self.settings = settings

    def run(self, rows: _Rows) -> Finished:
        finished = Finished(rows.images, tf.zeros_like(rows.position))
        step, rows, finished = tf.while_loop(
            lambda step, rows, _: (
                (step < self.settings.nb_iter) & (tf.size(rows.position) > 0)
            ),
            self.advance,
            (tf.constant(0), *self.sift(rows, tf.constant(0), finished)),
        )
        return finished.write(rows.position, rows.images, step)

    def advance(
        self, step: tf.Tensor, rows: _Rows, finished: Finished
    ) -> tuple[tf.Tensor, _Rows, Finished]:
        """Makes one step with each row, after which some leave."""
        moved = self.move(rows, self.slopes(rows, step), step + 1)
        return step + 1, *self.sift(moved, step + 1, finished)

    def sift(
        self, rows: _Rows, step: tf.Tensor, finished: Finished
    ) -> tuple[_Rows, Finished]:
        """Takes out the rows whose loss is low enough."""
        logits = self.infer(rows.images)
        low = self.settings.threshold - rounding(logits, rows.labels)
        done = self.loss(logits, rows.labels) < low

        def leave() -> tuple[_Rows, Finished]:
            leaving = only(done, rows)
            return only(~done, rows), finished.write(
                leaving.position, leaving.images, step
            )

        return tf.cond(tf.reduce_any(done), leave, lambda: (rows, finished))

    def loss(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return -rivals_lead(logits, labels, "margin")

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
        losses = self.loss(logits, tf.repeat(labels, 2 * half))
        up, down = tf.unstack(tf.reshape(losses, (rows, 2, half)), axis=1)
        slopes = tf.einsum("rs,rsv->rv", (up - down) / 2, signs)
        # cleverhans divides by the step once, not twice: Adam takes any scale.
        return tf.reshape(slopes, tf.shape(images)) / tf.cast(half, tf.float32)

    def move(self, rows: _Rows, slopes: tf.Tensor, number: tf.Tensor) -> _Rows:
        """Returns the rows after Adam's step of this number, counted from 1."""
        mean = _BETA_1 * rows.mean + (1 - _BETA_1) * slopes
        square = _BETA_2 * rows.square + (1 - _BETA_2) * tf.square(slopes)
        power = tf.cast(number, tf.float32)
        size = tf.sqrt(square / (1 - tf.pow(_BETA_2, power))) + _EPSILON
        way = mean / (1 - tf.pow(_BETA_1, power)) / size
        moved = rows.images - self.settings.learning_rate * way
        images = LINF.project(moved, rows.clean, self.settings.eps)
        return rows._replace(images=images, mean=mean, square=square)


def _signs(
    seed: tf.Tensor, number: tf.Tensor, shape: tuple[tf.Tensor, int]
) -> tf.Tensor:
    both = tf.stack([seed, tf.cast(number, seed.dtype)])
    drawn = tf.random.stateless_uniform(shape, both, alg="philox")
    return tf.where(drawn < 0.5, -1.0, 1.0)
