"""The fast gradient sign method and its kin: one step in the compiled loop."""

import dataclasses
from typing import ClassVar

import numpy as np

from keras_traps._checks import FloatArray, is_number
from keras_traps.attacks.base import Batch, Kind, Perturbed, TargetRule
from keras_traps.attacks.gradient import Recipe, Settings, run_gradient_loop
from keras_traps.attacks.linf import LinfAttack, noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(LinfAttack):
    """Fast gradient sign method: one step of `eps`.

    Reference:
        Goodfellow et al., Explaining and harnessing adversarial examples, 2015.
    """

    name: ClassVar[str] = "FGSM"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> Perturbed:
        """Takes the step."""
        return _step(self, batch, batch.images, self.eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LLC(FGSM):
    """FGSM towards the least likely class.

    Reference:
        Kurakin et al., Adversarial examples in the physical world, 2017.
    """

    name: ClassVar[str] = "LLC"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "least_likely"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RFGSM(LinfAttack):
    """A random step of `alpha`, then a gradient step of `eps - alpha`.

    Args:
        alpha: Size of the random step: the sign of Gaussian noise. Above 0 and below
            `eps`.

    Reference:
        Tramèr et al., Ensemble adversarial training, 2018. The paper's Table VII calls
        the gradient step eps; here it is the whole ball, as everywhere.
    """

    alpha: float
    name: ClassVar[str] = "RFGSM"
    kind: ClassVar[Kind] = "UA"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if not (is_number(self.alpha) and 0 < self.alpha < self.eps):
            raise ValueError(
                "Invalid value for argument `alpha`. Expected a number between 0 and "
                f"eps={self.eps}. Received: alpha={self.alpha!r}"
            )

    def perturb(self, batch: Batch) -> Perturbed:
        """Takes both steps."""
        signs = noise(batch, lambda shape, draw: np.sign(draw.standard_normal(shape)))
        start = np.clip(batch.images + self.alpha * signs, 0, 1)
        return _step(self, batch, start, self.eps - self.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLLC(RFGSM):
    """RFGSM towards the least likely class.

    Reference:
        Tramèr et al., Ensemble adversarial training, 2018.
    """

    name: ClassVar[str] = "RLLC"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "least_likely"


def _step(
    attack: LinfAttack, batch: Batch, start: FloatArray, length: float
) -> Perturbed:
    settings = Settings(
        eps=attack.eps, eps_iter=length, nb_iter=1, targeted=attack.targeted
    )
    return run_gradient_loop(batch, Recipe(), settings, start=start)
