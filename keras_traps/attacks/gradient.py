"""The sign-gradient family, through cleverhans.

Each attack stays in the L-infinity ball of radius `eps` and in [0, 1]. cleverhans' own
`sanity_checks` raise on Keras 3; what they check is checked by `Attack` itself.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import (
    projected_gradient_descent,
)

from keras_traps._validation import FloatArray
from keras_traps.attacks.base import Attack, Batch, Kind, TargetRule
from keras_traps.attacks.randomness import per_example

_PIXELS = {"clip_min": 0.0, "clip_max": 1.0}
_NOISE_STREAM = 2
_Draw = Callable[[tuple[int, ...], np.random.Generator], npt.ArrayLike]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinfAttack(Attack):
    """An attack in an L-infinity ball.

    Args:
        eps: The ball's radius, above 0; pixels are in [0, 1].
    """

    eps: float

    def __post_init__(self) -> None:
        _check_positive("eps", self.eps)

    @property
    def linf_bound(self) -> float:
        """The radius of the ball."""
        return self.eps


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(LinfAttack):
    """Fast gradient sign method: one step of `eps`.

    Reference:
        Goodfellow et al., Explaining and harnessing adversarial examples, 2015.
    """

    name: ClassVar[str] = "FGSM"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> tf.Tensor:
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
        if not 0 < self.alpha < self.eps:
            raise ValueError(
                "Invalid value for argument `alpha`. Expected a number between 0 and "
                f"eps={self.eps}. Received: alpha={self.alpha}"
            )

    def perturb(self, batch: Batch) -> tf.Tensor:
        """Takes both steps."""
        signs = _noise(batch, lambda shape, draw: np.sign(draw.standard_normal(shape)))
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
        _check_positive("eps_iter", self.eps_iter)
        if self.eps_iter > self.eps:
            raise ValueError(
                "Invalid value for argument `eps_iter`. Expected at most "
                f"eps={self.eps}. Received: eps_iter={self.eps_iter}"
            )
        if isinstance(self.nb_iter, bool) or int(self.nb_iter) != self.nb_iter:
            raise ValueError(
                "Invalid value for argument `nb_iter`. Expected an integer. "
                f"Received: nb_iter={self.nb_iter}"
            )
        if self.nb_iter < 1:
            raise ValueError(
                "Invalid value for argument `nb_iter`. Expected at least 1. "
                f"Received: nb_iter={self.nb_iter}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIM(IterativeAttack):
    """Basic iterative method: FGSM steps, projected on the ball.

    Reference:
        Kurakin et al., Adversarial examples in the physical world, 2017.
    """

    name: ClassVar[str] = "BIM"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> tf.Tensor:
        """Iterates from the clean image."""
        return basic_iterative_method(
            batch.logits,
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

    Reference:
        Madry et al., Towards deep learning models resistant to adversarial attacks,
        2018.
    """

    name: ClassVar[str] = "PGD"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> tf.Tensor:
        """Iterates from a random point."""
        noise = _noise(batch, lambda shape, draw: draw.uniform(-1, 1, shape))
        low = np.maximum(batch.images - np.float32(self.eps), 0)
        high = np.minimum(batch.images + np.float32(self.eps), 1)
        start = np.clip(batch.images + self.eps * noise, low, high)
        # cleverhans draws its own start from TensorFlow's global generator, which ties
        # an example to its batch. Started from ours, its ball is that of the start;
        # twice the radius never binds, and the bounds hold the images in the true one.
        return projected_gradient_descent(
            batch.logits,
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
        if not self.decay_factor >= 0:
            raise ValueError(
                "Invalid value for argument `decay_factor`. Expected at least 0. "
                f"Received: decay_factor={self.decay_factor}"
            )

    def perturb(self, batch: Batch) -> tf.Tensor:
        """Iterates from the clean image."""
        return momentum_iterative_method(
            batch.logits,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TMIFGSM(UMIFGSM):
    """Momentum iterative FGSM towards a given class.

    Reference:
        Dong et al., Boosting adversarial attacks with momentum, 2018.
    """

    name: ClassVar[str] = "TMIFGSM"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"


def _step(attack: LinfAttack, batch: Batch, start: FloatArray, eps: float) -> tf.Tensor:
    return fast_gradient_method(
        batch.logits,
        tf.constant(start),
        eps,
        norm=np.inf,
        y=tf.constant(batch.labels),
        targeted=attack.targeted,
        **_PIXELS,
    )


def _noise(batch: Batch, draw: _Draw) -> FloatArray:
    shape = batch.images.shape[1:]
    noise = per_example(
        lambda generator: draw(shape, generator), batch.ids, batch.seed, _NOISE_STREAM
    )
    return noise.astype(np.float32)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a finite number above 0. "
            f"Received: {name}={value}"
        )
