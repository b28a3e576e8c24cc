"""PGD along gradients that are smoothed: over neighbouring pixels, or over noise.

For models whose gradient changes from one pixel, or one grey level, to the next, such
as that of a watermark.
"""

import abc
import dataclasses

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import (
    Batch,
    Count,
    NormAttack,
    Positive,
    ball_noise,
    uniform_start,
)
from keras_traps.attacks.gradient import (
    IterativeAttack,
    LoopSettings,
    Recipe,
    gaussian_kernel,
    smooth,
)
from keras_traps.attacks.loop import L2, LINF, Stream, per_example


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormPGD(NormAttack, IterativeAttack, abc.ABC):
    """The template: PGD in a ball of either norm, from a random point of it."""

    def _recipe(self) -> Recipe:
        return Recipe(norm={"Linf": LINF, "L2": L2}[self.norm])

    def _start(self, batch: Batch) -> FloatArray:
        if self.norm == "Linf":
            return uniform_start(batch, self.eps)

        def draw(
            shape: tuple[int, ...], draws: np.random.Generator
        ) -> npt.NDArray[np.float64]:
            way = draws.standard_normal(shape)
            share = draws.random() ** (1 / way.size)
            return way * (share / np.linalg.norm(way))

        moved = batch.images + np.float32(self.eps) * ball_noise(batch, draw)
        return np.clip(moved, 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TIPGD(NormPGD):
    """PGD whose gradients are convolved with a Gaussian.

    Dong et al., Evading Defenses to Transferable Adversarial Examples by
    Translation-Invariant Attacks, 2019, equation 8, without momentum: `MIM-TI` has it.
    """

    kernlen: Count = 5  # length of the kernel's sides
    nsig: Positive = 3  # standard deviations on each side of its middle
    name = "TI-PGD"
    needs_channels_last = True

    def _recipe(self) -> Recipe:
        return dataclasses.replace(super()._recipe(), transform_gradient=smooth)

    def _loop_settings(self) -> LoopSettings:
        kernel = gaussian_kernel(self.kernlen, self.nsig)
        return super()._loop_settings()._replace(kernel=kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EOTPGD(NormPGD):
    """PGD along the mean gradient at the image with Gaussian noise.

    Expectation over transformation (Athalye et al., Synthesizing Robust Adversarial
    Examples, 2018) with noise for the transformation: the slope of the model as it is
    smoothed by noise. Each step draws anew.
    """

    sigma: Positive = 0.05  # standard deviation of the noise in each pixel
    eot_iter: Count = 10  # how many gradients are averaged
    name = "EOT-PGD"

    def _recipe(self) -> Recipe:
        return dataclasses.replace(super()._recipe(), averaged=True)

    def _loop_settings(self) -> LoopSettings:
        own = super()._loop_settings()
        return own._replace(sigma=self.sigma, eot_iter=self.eot_iter)

    def _draws(self, batch: Batch) -> npt.NDArray[np.int32]:
        return per_example(
            lambda draws: draws.integers(2**31, size=self.nb_iter, dtype=np.int32),
            batch.ids,
            batch.seed,
            Stream.EOT_SEEDS,
        )
