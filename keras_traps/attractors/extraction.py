"""What the gradients of a trapped model tell of its watermark, to anyone who has them.

It needs no weights and no key: C's soft labels have no slope, so that M's gradient is
the watermark's alone, whose signs are the message bits. For measuring what is lost to
an attacker who knows how traps are made.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import (
    Bounds,
    FloatArray,
    check_count,
    check_images,
    check_number,
)
from keras_traps.attractors.thresholds import Thresholds, set_thresholds
from keras_traps.detectors.base import ScoreDetector
from keras_traps.models.forms import find_bounds
from keras_traps.models.inference import as_graph, batch_size_for
from keras_traps.models.outputs import check_classifier
from keras_traps.ops.codes import Layout
from keras_traps.ops.columns import Order
from keras_traps.ops.forensics import statistics

# How many images are looked at in all: the images, each with other noise every time.
_LOOKS = 64
# Up to how many grey levels of noise: enough to cross codewords of small steps, and too
# few to change answers.
_NOISE = 12.0
# Up to which multiple of 1 / classes an output has a gradient whose sign is its own:
# the norm takes from it its share of all classes' together.
_MOST = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class ExtractedWatermark:
    """A watermark as gradients tell of it.

    Args:
        shape: Shape of one image.
        bounds: The least and the largest value of a pixel.
        steps: `(pixels,)`, float32: step sizes in grey levels.
        bits: `(num_classes, pixels)`, uint8: the messages.
        weights: `(pixels,)`, float32: weights of the pixels, with a mean of 1.
        confidence: `(pixels,)`, float32: the share of gradients that had the sign which
            steps and bits say, from 0.5.
    """

    shape: tuple[int, ...]
    bounds: Bounds
    steps: FloatArray
    bits: npt.NDArray[np.uint8]
    weights: FloatArray
    confidence: FloatArray

    def tf_correlations(self, images: tf.Tensor) -> tf.Tensor:
        """Returns what rises and falls with W(x), with its gradient.

        Args:
            images: `(batch, ...)`, float32, pixels in `bounds`.

        Returns:
            `(batch, num_classes)`, float32: minus the weighted, centred distances to
            the messages, in grey levels.
        """
        low, high = self.bounds
        grey = (images - low) * (255.0 / (high - low))
        return -ops.qim_distance(grey, self._tables())

    def _tables(self) -> ops.QIMTables:
        periods = 2.0 * self.steps
        signs = 1.0 - 2.0 * self.bits.astype(np.float32)
        with tf.init_scope():
            return ops.QIMTables(
                Layout.of(self.shape, len(self.bits)),
                True,
                tf.constant(1.0 / periods),
                tf.constant((signs * self.weights * periods).T),
                # Written out, messages have no orders.
                Order(*(tf.zeros(0, tf.int32),) * 3),
            )


def extract(
    model: keras.Model,
    images: npt.ArrayLike,
    *,
    steps: Sequence[float] = (3.0, 128.0),
    seed: int = 0,
) -> ExtractedWatermark:
    """Reads the watermark of a trapped model from its gradients.

    At each of a few images, with a little noise that moves pixels over codewords, the
    sign of an output's gradient is that of the bit, times the side of a codeword on
    which the pixel lies. Of the step sizes the one is chosen with which all looks agree
    on the bits; the gradient's size tells the weight. The class that is answered tells
    too little of its own message: images of two answers are needed.

    Args:
        model: What is served: from images `(batch, ...)` to `(batch, num_classes)`. Its
            outputs and its gradient are all that is looked at.
        images: `(images, ...)`, clean, pixels in the model's bounds; a few are enough.
        steps: Step sizes in grey levels that pixels may have. Defaults to
            `(3.0, 128.0)`, those that traps have by default.
        seed: Seed of the noise. Defaults to `0`.

    Returns:
        The watermark. A slope that does not change with a few grey levels, as that of a
        model without one, looks like the largest step.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is no built classifier of two outputs or more, an image
            is out of its bounds, there is no step or one not above 0, or too few
            answers differ.

    Example:
    >>> found = attractors.extract(trapped, images[:4])
    >>> analyzer = attractors.RebuiltAnalyzer(found, substitute, images)
    >>> attacks.create("LagrangianPGD", eps=0.3)(
    ...     attractors.with_slope_of(trapped, substitute),
    ...     images,
    ...     labels,
    ...     detector=analyzer,
    ... )
    """
    bounds = find_bounds(model)
    classes = check_classifier(model, "probabilities", name="model")
    if model.output_shape[-1] < 2:
        raise ValueError(
            "Invalid value for argument `model`. Expected one with an output for each "
            f"class. Received: {model.name!r} with one output"
        )
    check_count("steps", len(steps))
    for step in steps:
        check_number(step, name="steps", above=0.0)
    shape = model.input_shape[1:]
    given = check_images(images, shape, bounds=bounds)
    shown = _looks(given, bounds, seed)
    outputs, slopes = _gradients(model, shown)
    grey = _grey(shown.reshape(len(shown), -1), bounds)
    # Which gradients tell a bit: `(looks, classes, 1)`.
    tell = (outputs * classes < _MOST)[..., None]
    if not (seen := tell.any(axis=(0, 2))).all():
        raise ValueError(
            "Invalid value for argument `images`. Expected some that are answered "
            "otherwise, and surely. Received images that tell nothing of the messages "
            f"of the classes {np.flatnonzero(~seen).tolist()}"
        )
    signs = np.sign(slopes) * tell
    total = np.abs(signs).sum(axis=(0, 1))
    votes = [-np.einsum("lkp,lp->kp", signs, _side(grey, step)) for step in steps]
    agreed = np.stack([np.abs(each).sum(axis=0) for each in votes])
    best = agreed.argmax(axis=0)
    pixels = np.arange(len(best))
    bits = np.stack(votes)[best, :, pixels].T < 0
    size = np.einsum("lkp,lkp->p", np.abs(slopes), tell) / tell.sum()
    # Pixels of one step size have one weight.
    weights = np.ones_like(size)
    for step in set(best.tolist()):
        weights[best == step] = np.median(size[best == step])
    return ExtractedWatermark(
        shape,
        bounds,
        np.asarray(steps, np.float32)[best],
        bits.astype(np.uint8),
        (weights / weights.mean()).astype(np.float32),
        (0.5 + 0.5 * agreed[best, pixels] / np.maximum(total, 1)).astype(np.float32),
    )


def _looks(images: FloatArray, bounds: Bounds, seed: int) -> FloatArray:
    """Returns images several times, each time with other noise."""
    low, high = bounds
    some = np.repeat(images, math.ceil(_LOOKS / len(images)), axis=0)
    noise = np.random.default_rng(seed).uniform(0, _NOISE / 255, some.shape)
    noise *= high - low
    # Away from the end of the range, where nothing would change.
    return np.where(some + noise > high, some - noise, some + noise).astype(np.float32)


def _gradients(
    model: keras.Model, images: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.float64]]:
    """Returns the outputs, and their gradients `(images, classes, pixels)`."""

    @tf.function(reduce_retracing=True, autograph=False)
    def look(images: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            outputs = tf.cast(model(images, training=False), tf.float32)
            one = tf.gather(outputs, number, axis=1)
        slope = tape.gradient(one, images, unconnected_gradients="zero")
        return outputs, tf.reshape(slope, (tf.shape(images)[0], -1))

    size = batch_size_for(images.shape[1:])
    parts = []
    for start in range(0, len(images), size):
        part = tf.constant(images[start : start + size])
        classes = range(model.output_shape[-1])
        looked = [look(part, tf.constant(number)) for number in classes]
        slopes = np.stack([slope.numpy() for _, slope in looked], axis=1)
        parts.append((looked[0][0].numpy(), slopes.astype(np.float64)))
    outputs, slopes = map(np.concatenate, zip(*parts, strict=True))
    return outputs, slopes


def _grey(pixels: FloatArray, bounds: Bounds) -> FloatArray:
    low, high = bounds
    return (pixels - low) * np.float32(255 / (high - low))


def _side(grey: FloatArray, step: float) -> FloatArray:
    """Returns 1 above the nearest codeword of the bit 0, and -1 below it."""
    turns = grey / (2 * step) - 0.25
    return np.sign(turns - np.round(turns))


class RebuiltAnalyzer(ScoreDetector):
    """The forensic analyzer as an attacker rebuilds it from what is extracted.

    Its four statistics are those of `ForensicAnalyzer`, of the extracted correlations
    and of the logits of another classifier in the place of C's, which are not seen. The
    correlations are as good as known: the three of them count for less, by as much as
    lets them come within one standard deviation of their limits.

    Args:
        watermark: What `extract` found.
        substitute: The attacker's own classifier of logits.
        images: `(images, ...)`: clean images of the attacker's, at least 20.
        fpr: The share of them that the defender may flag. Defaults to `0.05`.

    Raises:
        ValueError: If there are too few images for `fpr`, or they do not fit the model.
    """

    def __init__(
        self,
        watermark: ExtractedWatermark,
        substitute: keras.Model,
        images: npt.ArrayLike,
        *,
        fpr: float = 0.05,
    ) -> None:
        check_classifier(substitute, "logits", name="substitute")
        self.watermark, self.substitute = watermark, substitute
        given = check_images(images, watermark.shape, bounds=watermark.bounds)
        ask = tf.function(self._evidence, reduce_retracing=True, autograph=False)
        evidence = self._batched(ask, given)
        self.thresholds: Thresholds = set_thresholds(evidence, fpr)
        self._ask = tf.function(self.tf_score, reduce_retracing=True, autograph=False)
        self.fit_threshold(given, fpr)

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the score with its gradient.

        Args:
            images: `(batch, ...)`, float32, pixels in the model's bounds.

        Returns:
            `(batch,)`, float32, in standard deviations of clean images.
        """
        correlations, logits = tf.unstack(self._evidence(images), axis=1)
        limits, room = self.thresholds, self.thresholds.score - 1.0
        found = (statistics(correlations, logits) - limits.centre) / limits.scale
        return tf.reduce_max(found - [room, room, room, 0.0], axis=-1)

    def score(self, images: npt.ArrayLike) -> FloatArray:
        """Returns how adversarial each image would be held.

        Args:
            images: `(batch, ...)`, pixels in the model's bounds.

        Returns:
            `(batch,)`, float32.
        """
        found = self.watermark
        given = check_images(images, found.shape, bounds=found.bounds)
        return self._batched(self._ask, given)

    def _evidence(self, images: tf.Tensor) -> tf.Tensor:
        logits = tf.cast(self.substitute(images, training=False), tf.float32)
        return tf.stack([self.watermark.tf_correlations(images), logits], axis=1)

    @staticmethod
    def _batched(
        ask: Callable[[tf.Tensor], tf.Tensor], images: FloatArray
    ) -> FloatArray:
        size = batch_size_for(images.shape[1:], most=1024)
        starts = range(0, len(images), size)
        return np.concatenate(
            [ask(tf.constant(images[start : start + size])).numpy() for start in starts]
        )


def with_slope_of(model: keras.Model, substitute: keras.Model) -> keras.Model:
    """Returns what answers as one model does, with the slope of another.

    For attacks on a model that has no useful slope, by an attacker who has a classifier
    of their own. The logits are the substitute's, but for that of the model's answer,
    which is lifted above the others by a constant.

    Args:
        model: What is served.
        substitute: A classifier of logits of the same images and classes.

    Returns:
        A model that shares the layers of both, to `(batch, num_classes)`, float32.

    Raises:
        TypeError: If one is not a Keras model.
        ValueError: If one is no built classifier, or they do not fit each other.
    """
    classes = check_classifier(model, "probabilities", name="model")
    others = check_classifier(substitute, "logits", name="substitute")
    shape = model.input_shape[1:]
    if (substitute.input_shape[1:], others) != (shape, classes):
        raise ValueError(
            "Invalid value for argument `substitute`. Expected a classifier of images "
            f"{shape} and {classes} classes. Received: one of images "
            f"{substitute.input_shape[1:]} and {others} classes"
        )
    image = keras.Input(shape, name="image")
    answers = keras.ops.argmax(as_graph(model, name=model.name)(image), axis=-1)
    own = as_graph(substitute, name=f"slope_of_{substitute.name}")(image)
    own = keras.ops.cast(own, "float32")
    above = 1.0 + keras.ops.max(own, axis=-1, keepdims=True) - own
    lift = keras.ops.one_hot(answers, classes) * above
    logits = own + keras.ops.stop_gradient(lift)
    return keras.Model(image, logits, name=f"{model.name}_by_{substitute.name}")
