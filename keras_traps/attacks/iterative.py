"""The iterative sign-gradient methods: cleverhans' steps in one compiled loop.

cleverhans' own loops run in Python, which costs a small classifier a tenth of the time
and keeps a trace of each model for good. The tests hold the two against each other.
"""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, check_count, check_number, check_positive
from keras_traps.attacks.base import Batch, Kind, Perturbed, TargetRule
from keras_traps.attacks.gradient import Recipe, Settings, run_gradient_loop
from keras_traps.attacks.linf import LinfAttack, uniform_start


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeAttack(LinfAttack, abc.ABC):
    """A sign-gradient attack of many steps.

    Args:
        eps_iter: Size of a step, above 0 and at most `eps`.
        nb_iter: How many steps, at least 1.
    """

    eps_iter: float
    nb_iter: int

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_positive("eps_iter", self.eps_iter)
        if self.eps_iter > self.eps:
            raise ValueError(
                "Invalid value for argument `eps_iter`. Expected at most "
                f"eps={self.eps}. Received: eps_iter={self.eps_iter}"
            )
        check_count("nb_iter", self.nb_iter)

    def _loop_settings(self) -> Settings:
        return Settings(
            eps=self.eps,
            eps_iter=self.eps_iter,
            nb_iter=self.nb_iter,
            targeted=self.targeted,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIM(IterativeAttack):
    """Basic iterative method: FGSM steps, projected on the ball.

    Args:
        abort_early: Whether an example stops as soon as it has succeeded, which
            cleverhans' does not know. Defaults to `False`.

    Reference:
        Kurakin et al., Adversarial examples in the physical world, 2017.
    """

    abort_early: bool = False
    name: ClassVar[str] = "BIM"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from the start."""
        return run_gradient_loop(
            batch,
            Recipe(abort_early=self.abort_early),
            self._loop_settings(),
            start=self._start(batch),
        )

    def _start(self, batch: Batch) -> FloatArray:
        return batch.images


@dataclasses.dataclass(frozen=True, kw_only=True)
class ILLC(BIM):
    """BIM towards the least likely class.

    Reference:
        Kurakin et al., Adversarial examples in the physical world, 2017.
    """

    name: ClassVar[str] = "ILLC"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "least_likely"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(BIM):
    """Projected gradient descent: BIM from a uniformly random point of the ball.

    Reference:
        Madry et al., Towards deep learning models resistant to adversarial attacks,
        2018.
    """

    name: ClassVar[str] = "PGD"

    def _start(self, batch: Batch) -> FloatArray:
        return uniform_start(batch, self.eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIM(IterativeAttack):
    """Momentum iterative method.

    Args:
        decay_factor: How much of the earlier gradients' sum stays at each step, not
            below 0. Defaults to `1.0`.

    Reference:
        Dong et al., Boosting adversarial attacks with momentum, 2018.
    """

    decay_factor: float = 1.0
    name: ClassVar[str] = "MIM"
    kind: ClassVar[Kind] = "UA"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_number(self.decay_factor, name="decay_factor", at_least=0)

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from the clean image."""
        return run_gradient_loop(
            batch, self._recipe(), self._loop_settings(), draws=self._draws(batch)
        )

    def _recipe(self) -> Recipe:
        """Returns what the loop is to do."""
        return Recipe(momentum=True)

    def _draws(self, batch: Batch) -> npt.NDArray[np.integer] | None:
        """Returns `(batch, nb_iter)`: what it is given at random at each step."""
        del batch
        return None

    def _loop_settings(self) -> Settings:
        settings = super()._loop_settings()
        return settings._replace(decay_factor=self.decay_factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UMIFGSM(MIM):
    """MIM, by the name that the attractor paper has for it.

    Reference:
        Dong et al., Boosting adversarial attacks with momentum, 2018.
    """

    name: ClassVar[str] = "UMIFGSM"
    note: ClassVar[str] = (
        "Each gradient is divided by its mean absolute value before it is added to the "
        "momentum, as the attack's authors and cleverhans do; DEEPSEC does not."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TMIFGSM(UMIFGSM):
    """MIM towards a given class.

    Reference:
        Dong et al., Boosting adversarial attacks with momentum, 2018.
    """

    name: ClassVar[str] = "TMIFGSM"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"
