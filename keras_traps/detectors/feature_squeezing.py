"""Feature squeezing: how far the answer moves when detail is taken from an image."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import keras
import numpy as np
import tensorflow as tf

from keras_traps._checks import Bounds, check_count, check_positive
from keras_traps.detectors.base import ClassifierDetector
from keras_traps.models.logits import attacked_form
from keras_traps.models.outputs import Output

FeatureSqueezingPreset = Literal["mnist", "cifar10"]
"""The authors' best joint settings, by data set."""


class Squeezer(abc.ABC):
    """Takes detail from images `(batch, height, width, channels)` in [0, 1]."""

    @abc.abstractmethod
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the images with less detail."""

    def reach(self) -> int:
        """Returns how many pixels an image needs at least in height and width."""
        return 1


@dataclasses.dataclass(frozen=True)
class BitDepth(Squeezer):
    """Rounds pixels to as many equidistant values as so many bits can count.

    With L = 2^bits - 1 it is round(L x) / L; of two values as near, that with the even
    number is taken. Its gradient is 0 almost everywhere; that of the identity is taken
    in its place, as the attack BPDA does.

    Args:
        bits: From 1, which leaves black and white, to 8.

    Raises:
        ValueError: If `bits` is not an integer from 1 to 8.
    """

    bits: int

    def __post_init__(self) -> None:
        """Checks the number of bits."""
        check_count("bits", self.bits)
        if self.bits > 8:
            raise ValueError(
                "Invalid value for argument `bits`. Expected at most 8. Received: "
                f"bits={self.bits}"
            )

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the images with fewer values."""
        levels = 2.0**self.bits - 1.0
        rounded = tf.round(images * levels) / levels
        # What is added is exactly 0.
        return tf.stop_gradient(rounded) + (images - tf.stop_gradient(images))


@dataclasses.dataclass(frozen=True)
class Median(Squeezer):
    """Replaces each pixel by the median of a square around it, channel by channel.

    It is what `scipy.ndimage.median_filter` computes with `mode="reflect"`: of a square
    with an even side the pixel is the first behind the middle, and of an even number of
    values the upper of the two in the middle is taken. The border is mirrored with the
    outermost pixel in it twice.

    Args:
        size: Height and width of the square, at least 2.

    Raises:
        ValueError: If `size` is not an integer of at least 2.
    """

    size: int

    def __post_init__(self) -> None:
        """Checks the size."""
        check_count("size", self.size, at_least=2)

    def reach(self) -> int:
        """Returns how many pixels are mirrored at most."""
        return self.size // 2

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the medians."""
        size, (height, width) = self.size, images.shape[1:3]
        margin = (size // 2, (size - 1) // 2)
        padded = tf.pad(images, ((0, 0), margin, margin, (0, 0)), "SYMMETRIC")
        shifted = [
            padded[:, down : down + height, right : right + width]
            for down in range(size)
            for right in range(size)
        ]
        upper = len(shifted) - len(shifted) // 2
        return tf.math.top_k(tf.stack(shifted, axis=-1), upper).values[..., -1]


@dataclasses.dataclass(frozen=True)
class NonLocalMeans(Squeezer):
    """Replaces each pixel by a mean of those near it that lie in similar patches.

    The weight of a pixel is exp(-d / h^2), where d is the mean squared difference, in
    grey levels of 255, between the patches around both. The border is mirrored without
    the outermost pixel. Images of three channels are RGB: lightness, and the two
    colours together, are squeezed apart in CIE Lab, where L reaches from 0 to 255 and a
    level of a and b is 1. It is what OpenCV's `fastNlMeansDenoising` and
    `fastNlMeansDenoisingColored`, the authors' choice, compute but for their rounding
    to whole grey levels, and to whole levels of Lab before and after.

    Args:
        search: Height and width of the square from which pixels are taken, odd.
        patch: Height and width of the patches that are compared, odd.
        strength: h above, over 0.

    Raises:
        ValueError: If a size is not an odd integer, or `strength` not above 0.
    """

    search: int
    patch: int
    strength: float

    def __post_init__(self) -> None:
        """Checks sizes and strength."""
        for name, size in (("search", self.search), ("patch", self.patch)):
            check_count(name, size)
            if size % 2 == 0:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected an odd integer. "
                    f"Received: {name}={size}"
                )
        check_positive("strength", self.strength)

    def reach(self) -> int:
        """Returns one pixel more than are mirrored."""
        return self.search // 2 + self.patch // 2 + 1

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the means."""
        if images.shape[-1] != 3:
            return self._squeezed(images)
        lab = rgb_to_lab(images)
        parts = [self._squeezed(part) for part in (lab[..., :1], lab[..., 1:])]
        return tf.clip_by_value(lab_to_rgb(tf.concat(parts, axis=-1)), 0.0, 1.0)

    def _squeezed(self, images: tf.Tensor) -> tf.Tensor:
        """Takes the means over patches of all channels together."""
        margin = (self.reach() - 1,) * 2
        padded = tf.pad(images, ((0, 0), margin, margin, (0, 0)), "REFLECT")
        # Image by image: XLA compiles once for a batch of any size, and what one image
        # needs stays in the processor's cache.
        means = tf.map_fn(self._means, padded, parallel_iterations=4)
        return tf.ensure_shape(means, images.shape)

    def _means(self, padded: tf.Tensor) -> tf.Tensor:
        """Returns the means of one image with its margins."""

        @tf.custom_gradient
        def means_of(padded: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
            # Outside a function a tape would have XLA keep what every shift made.
            padded = tf.stop_gradient(padded)
            sums, weights = self._sums(padded)
            means = sums / weights

            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                of_weights = -tf.reduce_sum(upstream * means, -1, keepdims=True)
                return self._pull_back(padded, upstream / weights, of_weights / weights)

            return means, gradient

        return means_of(padded)

    @tf.function(jit_compile=True, autograph=False)
    def _sums(self, padded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Sums weighted pixels, and weights, over all shifts, one after another."""

        def add(
            shift: tf.Tensor, sums: tf.Tensor, weights: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            weighted, weight = self._shifted(padded, shift)
            return shift + 1, sums + weighted, weights + weight

        none = tf.zeros([size - 2 * self.reach() + 2 for size in padded.shape[:2]])
        none = none[..., None]
        channels = tf.repeat(none, padded.shape[2], axis=-1)
        _, sums, weights = tf.while_loop(self._goes_on, add, (0, channels, none))
        return sums, weights

    @tf.function(jit_compile=True, autograph=False)
    def _pull_back(
        self, padded: tf.Tensor, of_sums: tf.Tensor, of_weights: tf.Tensor
    ) -> tf.Tensor:
        """Returns the gradient: a shift's part is computed again, not kept."""

        def add(shift: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(padded)
                parts = self._shifted(padded, shift)
            upstream = (of_sums, of_weights)
            part = tape.gradient(parts, padded, output_gradients=upstream)
            return shift + 1, total + part

        start = (0, tf.zeros_like(padded))
        return tf.while_loop(self._goes_on, add, start)[1]

    def _goes_on(self, shift: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return shift < self.search**2

    def _shifted(
        self, padded: tf.Tensor, shift: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the pixels some way off, times their weights, and these."""
        around, patch = self.search // 2, self.patch
        height, width = (size - 2 * around for size in padded.shape[:2])
        here = padded[around : around + height, around : around + width]
        offset = tf.stack([shift // self.search, shift % self.search, 0])
        there = tf.slice(padded, offset, here.shape)
        distance = tf.math.squared_difference(here, there)
        distance = tf.reduce_mean(distance, axis=-1, keepdims=True)
        # A box filter as sums: TensorFlow's pooling is slow for one channel.
        inner = (height - patch + 1, width - patch + 1)
        distance = sum(distance[k : k + inner[0]] for k in range(patch))
        distance = sum(distance[:, k : k + inner[1]] for k in range(patch))
        in_levels = (255.0 / (patch * self.strength)) ** 2
        weight = tf.exp(-in_levels * distance)
        k = patch // 2
        return there[k : k + inner[0], k : k + inner[1]] * weight, weight


# Linear RGB to the tristimulus values of CIE 1931, that of white D65 being 1 each.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_XYZ /= _XYZ.sum(axis=1, keepdims=True)

# Below, the cube root of CIE Lab is a line.
_DARK, _SLOPE, _OFFSET = (6 / 29) ** 3, (29 / 6) ** 2 / 3, 4 / 29

# Of L, a and b in levels, per 255 of these.
_LEVELS = np.array([255 / 100, 1, 1]) / 255


def rgb_to_lab(images: tf.Tensor) -> tf.Tensor:
    """Returns CIE Lab in levels by 255; RGB is linear to it, as to OpenCV's filter."""
    values = tf.tensordot(images, tf.constant(_XYZ.T, images.dtype), 1)
    # A root has no finite slope at 0, which would spoil the gradient of the line.
    roots = tf.maximum(values, _DARK) ** (1 / 3)
    x, y, z = tf.unstack(
        tf.where(values > _DARK, roots, _SLOPE * values + _OFFSET), axis=-1
    )
    lab = tf.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-1)
    return lab * tf.constant(_LEVELS, images.dtype)


def lab_to_rgb(images: tf.Tensor) -> tf.Tensor:
    """Does the reverse of `rgb_to_lab`."""
    lightness, a, b = tf.unstack(images / tf.constant(_LEVELS, images.dtype), axis=-1)
    y = (lightness + 16.0) / 116.0
    roots = tf.stack([y + a / 500.0, y, y - b / 200.0], axis=-1)
    values = tf.where(roots > 6 / 29, roots**3, (roots - _OFFSET) / _SLOPE)
    return tf.tensordot(values, tf.constant(np.linalg.inv(_XYZ).T, images.dtype), 1)


_KINDS: dict[str, type[Any]] = {
    "bit_depth": BitDepth,
    "median": Median,
    "non_local_means": NonLocalMeans,
}

_PRESETS: dict[str, tuple[tuple[int, ...], tuple[Squeezer, ...]]] = {
    "mnist": ((28, 28, 1), (BitDepth(1), Median(2))),
    "cifar10": ((32, 32, 3), (BitDepth(5), Median(2), NonLocalMeans(13, 3, 2.0))),
}


class FeatureSqueezing(ClassifierDetector):
    """Flags images of which the answer moves far when they lose detail.

    The score is the largest, over the squeezers, of the L1 distance between the
    probabilities of the image and of the squeezed image: from 0 to 2. Nothing is learnt
    but the threshold.

    It follows the authors' code; non-local means are not rounded, see `NonLocalMeans`.
    An attack that knows of the squeezers evades it (He et al., Adversarial Example
    Defenses: Ensembles of Weak Defenses are not Strong, 2017).

    Args:
        classifier: Called with `training=False`.
        output: What it returns.
        bounds: The least and the largest value of a pixel, as the classifier takes it.
            Defaults to `None`: those of traps in it, else `(0.0, 1.0)`.
        preset: The authors' squeezers for 28x28 images of one channel, `"mnist"`: 1
            bit, medians of 2x2; or for 32x32 ones of three, `"cifar10"`: 5 bits,
            medians of 2x2, non-local means of 13, 3 and 2. Defaults to `None`: those in
            `squeezers`.
        squeezers: Others: `BitDepth`, `Median` and `NonLocalMeans`. Defaults to `()`.

    Raises:
        TypeError: If `classifier` is not a Keras model, or a squeezer none of these.
        ValueError: If the classifier is not built, does not return what `output` says
            or is of other `bounds`; there is not one of `preset` and `squeezers`; the
            preset is for other images, or the images are too small for a squeezer.

    Example:
    >>> squeezing = keras_traps.detectors.FeatureSqueezing(
    ...     classifier, output="logits", preset="cifar10"
    ... ).fit_threshold(held_out, fpr=0.05)
    >>> squeezing.detect(suspects).is_adversarial

    Reference:
        Xu, Evans, Qi, Feature Squeezing: Detecting Adversarial Examples in Deep Neural
        Networks, NDSS 2018.
    """

    def __init__(
        self,
        classifier: keras.Model,
        *,
        output: Output,
        bounds: Bounds | None = None,
        preset: FeatureSqueezingPreset | None = None,
        squeezers: Sequence[Squeezer] = (),
    ) -> None:
        if (preset is None) == (len(squeezers) == 0):
            raise ValueError(
                "Invalid value for argument `squeezers`. Expected either squeezers or "
                f"a `preset`. Received: squeezers={squeezers}, preset={preset!r}"
            )
        for one in squeezers:
            if not isinstance(one, tuple(_KINDS.values())):
                raise TypeError(
                    "Invalid value for argument `squeezers`. Expected `BitDepth`, "
                    "`Median` or `NonLocalMeans`. Received: " + type(one).__name__
                )
        super().__init__(classifier, output=output, bounds=bounds)
        if preset is not None:
            shapes = {name: shape for name, (shape, _) in _PRESETS.items()}
            self._check_preset(preset, shapes)
            squeezers = _PRESETS[preset][1]
        for one in squeezers:
            if min(self._shape[:2]) < one.reach():
                raise ValueError(
                    "Invalid value for argument `squeezers`. Expected ones for images "
                    f"of the shape {self._shape}. Received: {one}, which needs "
                    f"{one.reach()} pixels each way"
                )
        self.squeezers = tuple(squeezers)
        self._model = attacked_form(classifier, output, self.bounds)

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns how far the probabilities move, with a gradient.

        Args:
            images: `(batch, ...)`, float32, as the classifier takes them.

        Returns:
            `(batch,)`, float32, from 0 to 2.
        """
        given = self._standard(images)
        answer = self._probabilities(given)
        distances = [
            tf.reduce_sum(tf.abs(answer - self._probabilities(squeeze(given))), axis=-1)
            for squeeze in self.squeezers
        ]
        return tf.reduce_max(tf.stack(distances), axis=0)

    def _probabilities(self, images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.cast(self._model(images, training=False), tf.float32))

    def _config(self) -> dict[str, Any]:
        names = {kind: name for name, kind in _KINDS.items()}
        kept = [[names[type(one)], vars(one)] for one in self.squeezers]
        return {**super()._config(), "squeezers": kept}

    @classmethod
    def _from_config(cls, classifier: keras.Model, config: Mapping[str, Any]) -> Self:
        squeezers = [_KINDS[kind](**values) for kind, values in config["squeezers"]]
        return cls(classifier, **{**config, "squeezers": squeezers})
