"""Momentum attacks made to transfer from one model to another."""

import dataclasses

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import Batch, Count, NotNegativeShare, Perturbed, Positive
from keras_traps.attacks.gradient import MIM, LoopSettings, Recipe
from keras_traps.attacks.loop import L2, Stream, per_example

# By how much smaller, and how many zeros come before, in height and in width. The last
# of the zeros that a size leaves room for is never drawn as an offset in the authors'
# code, whose upper bound is not drawn itself.
_VARIANTS = ((0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1))
_LARGEST_LESS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIM(MIM):
    """MIM with input diversity.

    At each step the model is shown the image as it is or, with probability `prob`,
    shrunk by 1 or 2 pixels and padded with zeros (Xie et al., 2019).
    """

    prob: NotNegativeShare = 0.5
    name = "DIM"
    needs_channels_last = True
    note = (
        "Each image is resized by draws of its own; the luring paper's code draws once "
        "for a batch."
    )

    def _recipe(self) -> Recipe:
        return dataclasses.replace(super()._recipe(), look=_show_variants)

    def _draws(self, batch: Batch) -> npt.NDArray[np.int32]:
        shortest = min(batch.images.shape[1:3])
        if shortest <= _LARGEST_LESS:
            raise ValueError(
                "Invalid value for argument `x`. Input diversity makes images smaller "
                f"by {_LARGEST_LESS} pixels: expected longer sides. Received: x with a "
                f"side of {shortest}"
            )
        steps = self.nb_iter

        def draw(generator: np.random.Generator) -> npt.NDArray[np.int32]:
            changed = generator.random(steps) < self.prob
            by_two = generator.random(steps) < 0.5
            place = generator.integers(2, len(_VARIANTS), steps)
            return np.where(changed, np.where(by_two, place, 1), 0).astype(np.int32)

        drawn = per_example(draw, batch.ids, batch.seed, Stream.DIVERSITY)
        return drawn.astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIMTI(MIM):
    """MIM whose gradients are convolved with a Gaussian (Dong et al., 2019)."""

    kernlen: Count = 5  # length of the kernel's sides
    nsig: Positive = 3  # standard deviations on each side of its middle
    name = "MIM-TI"
    needs_channels_last = True

    def _recipe(self) -> Recipe:
        return dataclasses.replace(super()._recipe(), transform_gradient=_smooth)

    def _loop_settings(self) -> LoopSettings:
        kernel = _gaussian_kernel(self.kernlen, self.nsig)
        return super()._loop_settings()._replace(kernel=kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIMTI(DIM, MIMTI):
    """MIM with input diversity and with convolved gradients (Dong et al., 2019)."""

    name = "DIM-TI"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIML2(MIM):
    """MIM with L2 steps in an L2 ball, whose result is then clipped to `eps`.

    So does the luring paper: it compares with the attacks in the L-infinity ball.
    """

    radius: Positive  # of the L2 ball: cleverhans' `eps` for this norm
    ball = "radius"
    name = "MIML2"

    @property
    def l2_bound(self) -> float:
        """The radius of the L2 ball."""
        return self.radius

    def _recipe(self) -> Recipe:
        return Recipe(norm=L2, momentum=True)

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from the clean image, then clips."""
        moved = super().perturb(batch)
        eps = np.float32(self.eps)
        low, high = batch.images - eps, batch.images + eps
        return Perturbed(np.clip(moved.images, low, high), moved.iterations)


def _show_variants(images: tf.Tensor, variants: tf.Tensor) -> tf.Tensor:
    """Returns each image resized by nearest neighbours, then padded with zeros."""
    _, height, width, _ = images.shape
    down = tf.gather(_selections(height, [row[:2] for row in _VARIANTS]), variants)
    across = tf.gather(
        _selections(width, [(less, left) for less, _, left in _VARIANTS]), variants
    )
    # Each product picks single values, so that it is exact; its gradient puts them
    # back in their places.
    return tf.einsum("nih,nhwc,njw->nijc", down, images, across)


def _selections(size: int, variants: list[tuple[int, ...]]) -> FloatArray:
    """Returns `(variants, size, size)`: which pixel, if any, comes to which place."""
    matrices = np.zeros((len(variants), size, size), np.float32)
    for matrix, (less, before) in zip(matrices, variants, strict=True):
        smaller = size - less
        # As TensorFlow 1 resizes, and in float32 as it does.
        scale = np.float32(size / smaller)
        chosen = np.floor(np.arange(smaller, dtype=np.float32) * scale).astype(int)
        matrix[before + np.arange(smaller), np.minimum(chosen, size - 1)] = 1
    return matrices


def _smooth(gradients: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves along height, then along width; beyond the edges there are zeros."""
    filters = tf.tile(kernel[:, None, None, None], (1, 1, gradients.shape[-1], 1))
    strides = (1, 1, 1, 1)
    down = tf.nn.depthwise_conv2d(gradients, filters, strides, "SAME")
    across = tf.transpose(filters, (1, 0, 2, 3))
    return tf.nn.depthwise_conv2d(down, across, strides, "SAME")


def _gaussian_kernel(kernlen: int, nsig: float) -> FloatArray:
    """Returns the kernel along one axis, with sum 1.

    That of the authors' code is its outer product with itself.
    """
    density = np.exp(-np.square(np.linspace(-nsig, nsig, kernlen)) / 2)
    return (density / density.sum()).astype(np.float32)
