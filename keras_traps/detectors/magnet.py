"""MagNet: how far an image, and the answer to it, moves through an autoencoder."""

import dataclasses
from typing import Any, Literal, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import Bounds, FloatArray, check_count
from keras_traps.detectors.base import ClassifierDetector, Parts
from keras_traps.models.forms import for_model, in_standard_form
from keras_traps.models.inference import batch_size_for, predict
from keras_traps.models.logits import attacked_form
from keras_traps.models.outputs import Output

MagNetPreset = Literal["mnist", "cifar10", "cpu"]
"""The authors' settings by data set, and one that is trained in minutes."""

Block = int | Literal["average"]
"""A 3x3 convolution of so many filters, or 2x2 average pooling."""

# Of the authors' training.
_BATCH, _REGULARIZER = 256, 1e-9

# So many images are there at least to learn from and to compare with together.
_FEWEST = 40

# How finely the ranks of clean marks are told apart.
_KNOTS = 64


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Autoencoders, each with the power of its errors, and how they are trained."""

    autoencoders: tuple[tuple[tuple[Block, ...], int], ...]
    temperatures: tuple[float, ...]
    noise: float
    epochs: int = 100


_MNIST = _Settings((((3, "average", 3), 2), ((3,), 1)), (), 0.1)
_CIFAR10 = _Settings((((3,), 1),), (10.0, 40.0), 0.025, epochs=400)
_SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cpu": None}


class MagNet(ClassifierDetector):
    """Flags images that autoencoders of clean ones do not reproduce.

    A *mark* is the mean over the pixels, in [0, 1], of |x - AE(x)|^p; or, z being the
    logits, the Jensen-Shannon divergence between softmax(z / T) at x and at AE(x), in
    nats. Each mark has a surprise: minus the logarithm of the share of clean
    images with a higher one, linear between 64 ranks and, beyond the largest of clean
    images, larger by the logarithm of how many times that it is. The score is the
    largest surprise. It orders images as the largest of the marks' clean ranks does,
    but has a gradient, and tells apart what lies beyond all clean images.

    The authors flag what has any mark above its own threshold, set by a rate each. Here
    `fit_threshold` sets one threshold, which is one rate for all marks such that the
    joint rate is the one asked for. What was said to pass they answer with the class of
    the reformed image: that is `reform`.

    An attack that knows the marks evades it (Carlini, Wagner, MagNet and "Efficient
    Defenses Against Adversarial Attacks" are Not Robust to Adversarial Examples, 2017).

    Args:
        classifier: Called with `training=False`.
        output: What it returns.
        bounds: The least and the largest value of a pixel, as the classifier takes it.
            Defaults to `None`: those of traps in it, else `(0.0, 1.0)`.
        preset: `"mnist"`, for 28x28 images of one channel: autoencoder I with a pooling
            and p = 2, II without and p = 1. `"cifar10"`, for 32x32 ones of three: one
            without and p = 1, and T = 10 and 40. `"cpu"`, for any size: the first of
            these for one channel and even sizes, else the second, and 10 epochs in
            place of 100 and 400, which is too few for small changes to be seen.
            Defaults to `"cpu"`.

    Raises:
        TypeError: If `classifier` is not a Keras model.
        ValueError: If it is not built, does not return what `output` says or is of
            other `bounds`, or the preset is for other images.

    Example:
    >>> magnet = keras_traps.detectors.MagNet(
    ...     classifier, output="logits", preset="mnist"
    ... ).fit(images_train).fit_threshold(held_out, fpr=0.05)
    >>> magnet.detect(suspects).is_adversarial

    Reference:
        Meng, Chen, MagNet: a Two-Pronged Defense against Adversarial Examples, CCS
        2017.
    """

    def __init__(
        self,
        classifier: keras.Model,
        *,
        output: Output,
        bounds: Bounds | None = None,
        preset: MagNetPreset = "cpu",
    ) -> None:
        super().__init__(classifier, output=output, bounds=bounds)
        self._check_preset(preset, _SHAPES)
        self.preset = preset
        height, width, channels = self._shape
        if preset == "cpu":
            simple = channels == 1 and height % 2 == width % 2 == 0
            chosen = _MNIST if simple else _CIFAR10
            self._settings = dataclasses.replace(chosen, epochs=10)
        else:
            self._settings = _MNIST if preset == "mnist" else _CIFAR10
        self._logits = attacked_form(classifier, output, self.bounds)
        self._autoencoders: list[keras.Model] = []
        self._ranked: FloatArray | None = None

    def fit(self, images: npt.ArrayLike, *, seed: int = 0, verbose: int = 0) -> Self:
        """Trains the autoencoders, and ranks the marks of images that they did not see.

        As the authors do: noise is drawn once, targets are the clean images, the loss
        is the mean squared error, with 1e-9 times the squared activations. A tenth of
        the images, chosen at random, is kept for the ranks. Thresholds are deleted.

        Args:
            images: `(images, ...)`: clean images, as the classifier takes them, at
                least 40; those that it was trained on will do.
            seed: Of first weights, noise and order. Global seeds are set. Defaults to
                `0`.
            verbose: `0` silent, `1` a progress bar, `2` a line per epoch. Defaults to
                `0`.

        Returns:
            The detector itself.

        Raises:
            TypeError: If images are integers and the bounds are not.
            ValueError: If there are too few images, or they do not fit.
        """
        check_count("seed", seed, at_least=0)
        given = in_standard_form(self._check(images), self.bounds)
        if len(given) < _FEWEST:
            raise ValueError(
                f"Invalid value for argument `images`. Expected at least {_FEWEST} "
                f"images to learn from. Received: {len(given)} images"
            )
        keras.utils.set_random_seed(seed)
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(given))
        kept, learnt = np.split(given[order], [max(_FEWEST // 2, len(given) // 10)])
        drawn = generator.standard_normal(learnt.shape, np.float32)
        noisy = np.clip(learnt + self._settings.noise * drawn, 0, 1)
        self._autoencoders = [
            autoencoder(self._shape, blocks)
            for blocks, _ in self._settings.autoencoders
        ]
        # They share no weight: trained at once they learn what each would alone.
        image = keras.Input(self._shape, dtype="float32")
        both = keras.Model(image, [one(image) for one in self._autoencoders])
        # XLA's convolutions are slow on a CPU.
        both.compile(
            keras.optimizers.Adam(1e-3),
            ["mse"] * len(self._autoencoders),
            jit_compile=False,
        )
        both.fit(
            noisy,
            [learnt] * len(self._autoencoders),
            batch_size=_BATCH,
            epochs=self._settings.epochs,
            verbose=verbose,
        )
        marks = tf.function(self._marks, reduce_retracing=True, autograph=False)
        size = batch_size_for(self._shape)
        starts = range(0, len(kept), size)
        found = [marks(tf.constant(kept[start : start + size])) for start in starts]
        self._ranked = _knots(np.sort(np.concatenate(found), axis=0))
        self._thresholds = None
        self.__dict__.pop("_compiled", None)
        return self

    def reform(self, images: npt.ArrayLike) -> FloatArray:
        """Moves images towards clean ones: what autoencoder I returns.

        Args:
            images: `(batch, ...)`, as the classifier takes them.

        Returns:
            Images of the same shape and bounds, float32.

        Raises:
            RuntimeError: If there was no `fit`.
            TypeError: If images are integers and the bounds are not.
            ValueError: If a pixel is not in `bounds`, or images are of another shape.
        """
        self._check_fitted()
        given = in_standard_form(self._check(images), self.bounds)
        reformed = predict(self._autoencoders[0], given)
        return for_model(self.classifier, reformed, self.bounds)

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the largest surprise, with a gradient.

        Args:
            images: `(batch, ...)`, float32, as the classifier takes them.

        Returns:
            `(batch,)`, float32, at least 0.

        Raises:
            RuntimeError: If there was no `fit`.
        """
        ranked = self._check_fitted()
        marks = tf.unstack(self._marks(self._standard(images)), axis=1)
        surprises = [
            _surprise(mark, ranked[0], knots)
            for mark, knots in zip(marks, ranked[1:], strict=True)
        ]
        return tf.reduce_max(tf.stack(surprises), axis=0)

    def _check_fitted(self) -> FloatArray:
        if self._ranked is None:
            raise RuntimeError("The MagNet has no autoencoders yet: call `fit` first.")
        return self._ranked

    def _marks(self, images: tf.Tensor) -> tf.Tensor:
        """Returns `(batch, marks)` of images in the standard form."""
        marks, axes = [], (1, 2, 3)
        made = [model(images, training=False) for model in self._autoencoders]
        powers = [power for _, power in self._settings.autoencoders]
        for reproduced, power in zip(made, powers, strict=True):
            error = tf.abs(images - reproduced)
            marks.append(tf.reduce_mean(error**power, axis=axes))
        if self._settings.temperatures:
            logits, moved = (
                tf.cast(self._logits(one, training=False), tf.float32)
                for one in (images, made[0])
            )
            for temperature in self._settings.temperatures:
                p, q = (tf.nn.softmax(one / temperature) for one in (logits, moved))
                marks.append(jensen_shannon(p, q))
        return tf.stack(marks, axis=1)

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "preset": self.preset}

    def _parts(self) -> Parts:
        ranked = self._check_fitted()
        models = enumerate(self._autoencoders, 1)
        named = {f"autoencoder_{number}.keras": model for number, model in models}
        return {**named, "ranks.npy": ranked}

    def _restore(self, parts: Parts) -> None:
        numbers = range(1, len(self._settings.autoencoders) + 1)
        self._autoencoders = [
            parts[f"autoencoder_{number}.keras"] for number in numbers
        ]
        self._ranked = parts["ranks.npy"]


def autoencoder(
    shape: tuple[int, ...], blocks: tuple[Block, ...], *, l2: float = _REGULARIZER
) -> keras.Model:
    """Builds one of MagNet's autoencoders: blocks, and their mirror image."""

    def convolve(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
        # On what the layer returns, not on its weights.
        regularizer = keras.regularizers.L2(l2)
        return keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="sigmoid",
            activity_regularizer=regularizer,
            dtype="float32",
        )(x)

    x = image = keras.Input(shape, dtype="float32", name="image")
    for block in blocks:
        if block == "average":
            x = keras.layers.AveragePooling2D(2, dtype="float32")(x)
        else:
            x = convolve(x, block)
    for block in reversed(blocks):
        if block == "average":
            x = keras.layers.UpSampling2D(2, dtype="float32")(x)
        else:
            x = convolve(x, block)
    return keras.Model(image, convolve(x, shape[-1]))


def jensen_shannon(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """Returns the Jensen-Shannon divergence of rows of probabilities, in nats.

    With r = (p - q) / (p + q) a column's part is (p + q) / 4 times 2 r artanh(r) +
    log(1 - r^2): of close distributions no large numbers are subtracted, as they are in
    the sum of two divergences from the mean.
    """
    total = p + q
    # Where both are 0 the part is 0; where one of them is, artanh is not finite.
    r = (p - q) / tf.maximum(total, 1e-30)
    r = tf.clip_by_value(r, -0.9999999, 0.9999999)
    parts = 2.0 * r * tf.atanh(r) + tf.math.log1p(-r * r)
    return tf.reduce_sum(total * parts, axis=-1) / 4.0


def _knots(marks: FloatArray) -> FloatArray:
    """Returns surprises, and by row the sorted clean marks that have them."""
    count = len(marks)
    spread = np.linspace(0, np.log(count + 1), _KNOTS + 1)[1:]
    ranks = np.rint((count + 1) * -np.expm1(-spread)).astype(int).clip(1, count)
    ranks = np.unique(ranks)
    surprises = -np.log1p(-ranks / (count + 1))
    # No mark is below 0, of which none is surprised.
    rows = np.vstack([surprises, marks[ranks - 1].T])
    return np.pad(rows, ((0, 0), (1, 0))).astype(np.float32)


def _surprise(marks: tf.Tensor, surprises: FloatArray, knots: FloatArray) -> tf.Tensor:
    """Interpolates between the knots, and goes on logarithmically behind the last."""
    last = max(float(knots[-1]), 1e-30)
    inside = tf.minimum(marks, last)
    place = tf.searchsorted(knots, tf.stop_gradient(inside), side="right")
    low = tf.clip_by_value(place - 1, 0, len(knots) - 2)
    start, end = tf.gather(knots, low), tf.gather(knots, low + 1)
    # Where the largest marks are alike, it is theirs.
    share = (inside - start) / tf.maximum(end - start, 1e-30)
    share = tf.where(inside >= end, 1.0, share)
    first, second = tf.gather(surprises, low), tf.gather(surprises, low + 1)
    beyond = tf.math.log(tf.maximum(marks, last) / last)
    return first + share * (second - first) + beyond
