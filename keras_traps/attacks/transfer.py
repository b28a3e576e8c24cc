"""Momentum attacks made to transfer from one model to another."""

import dataclasses
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from keras_traps._checks import check_count, check_number, check_positive, is_number
from keras_traps.attacks.base import Batch, Kind, Perturbed
from keras_traps.attacks.diversity import draw_variants, show_variants
from keras_traps.attacks.gradient import Recipe, Settings, run_gradient_loop
from keras_traps.attacks.iterative import MIM
from keras_traps.attacks.linf import LinfAttack
from keras_traps.attacks.norms import L2
from keras_traps.attacks.translation import gaussian_kernel, smooth


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIM(MIM):
    """MIM with input diversity.

    At each step the model is shown the image as it is or, with probability `prob`,
    shrunk by 1 or 2 pixels by nearest neighbours and padded with zeros.

    Args:
        prob: The probability of a step with the image changed, in [0, 1]. Defaults to
            `0.5`.

    Reference:
        Xie et al., Improving transferability of adversarial examples with input
        diversity, 2019. Each image has draws of its own, where the luring paper's code
        draws once for a batch.
    """

    prob: float = 0.5
    name: ClassVar[str] = "DIM"
    needs_channels_last: ClassVar[bool] = True
    note: ClassVar[str] = (
        "Each image is resized by draws of its own; the luring paper's code draws once "
        "for a batch."
    )

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if not (is_number(self.prob) and 0 <= self.prob <= 1):
            raise ValueError(
                "Invalid value for argument `prob`. Expected a number from 0 to 1. "
                f"Received: prob={self.prob!r}"
            )

    def _recipe(self) -> Recipe:
        return dataclasses.replace(super()._recipe(), look=show_variants)

    def _draws(self, batch: Batch) -> npt.NDArray[np.int32]:
        return draw_variants(batch, self.prob, self.nb_iter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIMTI(MIM):
    """MIM made invariant to translation: each gradient is convolved with a Gaussian.

    Args:
        kernlen: Length of the kernel's sides, at least 1. Defaults to `5`.
        nsig: How many standard deviations lie on each side of its middle, above 0.
            Defaults to `3`.

    Reference:
        Dong et al., Evading defenses to transferable adversarial examples by
        translation-invariant attacks, 2019.
    """

    kernlen: int = 5
    nsig: float = 3
    name: ClassVar[str] = "MIM-TI"
    needs_channels_last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_count("kernlen", self.kernlen)
        check_positive("nsig", self.nsig)

    def _recipe(self) -> Recipe:
        return dataclasses.replace(super()._recipe(), smooth=smooth)

    def _loop_settings(self) -> Settings:
        kernel = gaussian_kernel(self.kernlen, self.nsig)
        return super()._loop_settings()._replace(kernel=kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIMTI(DIM, MIMTI):
    """MIM with input diversity and with convolved gradients.

    Reference:
        Dong et al., Evading defenses to transferable adversarial examples by
        translation-invariant attacks, 2019.
    """

    name: ClassVar[str] = "DIM-TI"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIML2(LinfAttack):
    """MIM with L2 steps in an L2 ball, whose result is then clipped to `eps`.

    Args:
        radius: Radius of the L2 ball, above 0; cleverhans' `eps` for this norm.
        eps_iter: L2 length of a step, above 0 and at most `radius`.
        nb_iter: How many steps, at least 1.
        decay_factor: How much of the earlier gradients' sum stays at each step, not
            below 0. Defaults to `1.0`.

    Reference:
        Dong et al., Boosting adversarial attacks with momentum, 2018; clipped as the
        luring paper does, so that it compares with the attacks in the L-infinity ball.
    """

    radius: float
    eps_iter: float
    nb_iter: int
    decay_factor: float = 1.0
    name: ClassVar[str] = "MIML2"
    kind: ClassVar[Kind] = "UA"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_positive("radius", self.radius)
        check_positive("eps_iter", self.eps_iter)
        if self.eps_iter > self.radius:
            raise ValueError(
                "Invalid value for argument `eps_iter`. Expected at most "
                f"radius={self.radius}. Received: eps_iter={self.eps_iter}"
            )
        check_count("nb_iter", self.nb_iter)
        check_number(self.decay_factor, name="decay_factor", at_least=0)

    @property
    def l2_bound(self) -> float:
        """The radius of the L2 ball."""
        return self.radius

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from the clean image, then clips."""
        moved = run_gradient_loop(
            batch,
            Recipe(norm=L2, momentum=True),
            Settings(
                eps=self.radius,
                eps_iter=self.eps_iter,
                nb_iter=self.nb_iter,
                targeted=self.targeted,
                decay_factor=self.decay_factor,
            ),
        )
        eps = np.float32(self.eps)
        clipped = np.clip(
            np.asarray(moved.images), batch.images - eps, batch.images + eps
        )
        return Perturbed(clipped, moved.iterations)
