"""The iterative sign-gradient methods, through cleverhans.

cleverhans' own `sanity_checks` raise on Keras 3; what they check is checked by `Attack`
itself.
"""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
from cleverhans.tf2.attacks.momentum_iterative_method import (
    loss_fn as momentum_loss,
)
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import (
    projected_gradient_descent,
)

from keras_traps._validation import check_number
from keras_traps.attacks.base import Batch, Kind, Perturbed, TargetRule
from keras_traps.attacks.checks import check_count, check_positive
from keras_traps.attacks.gradient_loop import Recipe, Settings, run_gradient_loop
from keras_traps.attacks.linf import LinfAttack, ball, uniform_start
from keras_traps.attacks.shared_gradient import logits_traced_once

_PIXELS = {"clip_min": 0.0, "clip_max": 1.0}


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
        abort_early: Whether an example stops as soon as it has succeeded. cleverhans
            knows no such thing: with `True` the steps are made by a loop of our own,
            which is faster and spends nothing on what has fallen. Defaults to `False`.

    Reference:
        Kurakin et al., Adversarial examples in the physical world, 2017.
    """

    abort_early: bool = False
    name: ClassVar[str] = "BIM"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from the clean image."""
        if self.abort_early:
            return run_gradient_loop(
                batch, Recipe(abort_early=True), self._loop_settings()
            )
        images = basic_iterative_method(
            logits_traced_once(batch, targeted=self.targeted),
            tf.constant(batch.images),
            self.eps,
            self.eps_iter,
            self.nb_iter,
            norm=np.inf,
            y=tf.constant(batch.labels),
            targeted=self.targeted,
            sanity_checks=False,
            **_PIXELS,
        )
        return Perturbed(images, self.nb_iter)


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
class PGD(IterativeAttack):
    """Projected gradient descent from a uniformly random point of the ball.

    Args:
        abort_early: Whether an example stops as soon as it has succeeded. cleverhans
            knows no such thing: with `True` the steps are made by a loop of our own,
            which is faster and spends nothing on what has fallen. Defaults to `False`.

    Reference:
        Madry et al., Towards deep learning models resistant to adversarial attacks,
        2018.
    """

    abort_early: bool = False
    name: ClassVar[str] = "PGD"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from a random point."""
        start = uniform_start(batch, self.eps)
        if self.abort_early:
            return run_gradient_loop(
                batch, Recipe(abort_early=True), self._loop_settings(), start=start
            )
        low, high = ball(batch.images, self.eps)
        # cleverhans draws its own start from TensorFlow's global generator, which ties
        # an example to its batch. Started from ours, its ball is that of the start;
        # twice the radius never binds, and the bounds hold the images in the true one.
        images = projected_gradient_descent(
            logits_traced_once(batch, targeted=self.targeted),
            tf.constant(start),
            2 * self.eps,
            self.eps_iter,
            self.nb_iter,
            norm=np.inf,
            clip_min=tf.constant(low),
            clip_max=tf.constant(high),
            y=tf.constant(batch.labels),
            targeted=self.targeted,
            rand_init=False,
            sanity_checks=False,
        )
        return Perturbed(images, self.nb_iter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UMIFGSM(IterativeAttack):
    """Momentum iterative FGSM.

    Args:
        decay_factor: How much of the earlier gradients' sum stays at each step, not
            below 0. Defaults to `1.0`.

    Reference:
        Dong et al., Boosting adversarial attacks with momentum, 2018.
    """

    decay_factor: float = 1.0
    name: ClassVar[str] = "UMIFGSM"
    kind: ClassVar[Kind] = "UA"
    note: ClassVar[str] = (
        "cleverhans divides each gradient by its mean absolute value before it adds it "
        "to the momentum, as the attack's authors do; DEEPSEC does not."
    )

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_number(self.decay_factor, name="decay_factor", at_least=0)

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from the clean image."""
        images = momentum_iterative_method(
            logits_traced_once(batch, targeted=self.targeted, cost=momentum_loss),
            tf.constant(batch.images),
            self.eps,
            self.eps_iter,
            self.nb_iter,
            norm=np.inf,
            y=tf.constant(batch.labels),
            targeted=self.targeted,
            decay_factor=self.decay_factor,
            sanity_checks=False,
            **_PIXELS,
        )
        return Perturbed(images, self.nb_iter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TMIFGSM(UMIFGSM):
    """Momentum iterative FGSM towards a given class.

    Reference:
        Dong et al., Boosting adversarial attacks with momentum, 2018.
    """

    name: ClassVar[str] = "TMIFGSM"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"
