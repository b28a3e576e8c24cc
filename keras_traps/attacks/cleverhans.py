"""cleverhans' own attacks as shipped, in the call form of all others.

cleverhans' code is called, never copied or changed. What there is to know of it:

- It keeps what it traces of a model, with the weights, as long as the process lives,
  and traces anew for another batch size.
- Its random starts come from TensorFlow's global generator, whose seed is set for each
  batch: a start belongs to an example in its batch.
- Its sanity checks, which NumPy 2 refuses, are turned off: that is checked here.
- Its `CarliniWagnerL2` calls the `variables` of its optimizer, which is no method in
  Keras 3, and sets all of them to 0, also the learning rate, which was none of them
  before. It has one constant for each pixel, which goes with one image at a time. It is
  handed Keras' Adam in a shape that it knows.
- Its `SPSAAdam` hands Keras' Adam a learning rate by the name of `lr`, which Keras 3
  refuses, so that its `spsa` fails. Its `projected_optimization` is called with the
  same loss, and with the same optimizer made otherwise.
"""

import abc
import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks import carlini_wagner_l2, spsa
from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.madry_et_al import madry_et_al
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from keras_traps.attacks.base import (
    Batch,
    Count,
    NormAttack,
    NotNegative,
    Perturbed,
    Positive,
    TargetRule,
    in_parts,
)
from keras_traps.attacks.gradient import check_step
from keras_traps.attacks.loop import Logits, Loss, Stream, once_per_model, rivals_lead
from keras_traps.attacks.optimization import CW2
from keras_traps.attacks.spsa import SPSA

_BOX = {"clip_min": 0.0, "clip_max": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleverhansAttack(NormAttack, abc.ABC):
    """What cleverhans' attacks on the gradient share; fields are their arguments."""

    aim: TargetRule = "none"
    losses: ClassVar[tuple[Loss, ...]] = ("cross_entropy",)
    function: ClassVar[Callable[..., tf.Tensor]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aim != "none":
            object.__setattr__(self, "kind", "TA")
            object.__setattr__(self, "target_rule", self.aim)

    def perturb(self, batch: Batch) -> Perturbed:
        """Calls cleverhans' function on the whole batch."""
        _set_seed(batch)
        settings = self.settings() | {"norm": {"Linf": np.inf, "L2": 2}[self.norm]}
        del settings["aim"]
        if batch.loss == "margin":
            settings["loss_fn"] = _margin
        images = type(self).function(
            _logits(batch),
            tf.constant(batch.images),
            y=tf.constant(batch.labels),
            targeted=self.targeted,
            sanity_checks=False,
            **settings,
            **_BOX,
        )
        return Perturbed(images, settings.get("nb_iter", 1))


class CleverhansFGM(CleverhansAttack):
    """cleverhans' `fast_gradient_method`: one step of `eps`."""

    name = "cleverhans/FGM"
    losses = ("cross_entropy", "margin")
    function = fast_gradient_method


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleverhansBIM(CleverhansAttack):
    """cleverhans' `basic_iterative_method`."""

    eps_iter: Positive  # length of a step in `norm`, at most `eps`
    nb_iter: Count
    name = "cleverhans/BIM"
    function = basic_iterative_method

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step(self.eps_iter, self.eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleverhansPGD(CleverhansBIM):
    """cleverhans' `projected_gradient_descent`, whose default start is the image.

    `rand_minmax` is the radius of the ball that a random start is drawn from, `eps` if
    it is `None`; what lies beyond `eps` is drawn back to the border.
    """

    rand_init: bool = True
    rand_minmax: Positive | None = None
    name = "cleverhans/PGD"
    losses = ("cross_entropy", "margin")
    function = projected_gradient_descent


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleverhansMadry(CleverhansBIM):
    """cleverhans' `madry_et_al`: its PGD, always from a random start.

    With a small `eps` nearly all of the ball of its starts lies beyond the border.
    """

    rand_minmax: Positive = 0.3
    name = "cleverhans/Madry"
    function = madry_et_al


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleverhansMIM(CleverhansBIM):
    """cleverhans' `momentum_iterative_method`."""

    decay_factor: NotNegative = 1.0
    name = "cleverhans/MIM"
    function = momentum_iterative_method


class CleverhansCW2(CW2):
    """cleverhans' `CarliniWagnerL2` towards a given class, one image at a time.

    Its constant counts once for every value of an image, so that `initial_const` weighs
    as many times as much as in `CW2`; and a success need not lead by `confidence`.
    """

    name = "cleverhans/CW2"

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches image by image."""
        method = carlini_wagner_l2.CarliniWagnerL2(
            _logits(batch), y=batch.labels, batch_size=1, **_BOX, **self.settings()
        )

        def search(one: Batch) -> Perturbed:
            method.y = one.labels
            method.optimizer = _Adam(self.learning_rate)
            return Perturbed(method.attack(one.images), method.optimizer.steps)

        return in_parts(batch, 1, search)


class _Adam:
    """Keras' Adam as `CarliniWagnerL2` knows optimizers; counts its steps."""

    def __init__(self, learning_rate: float) -> None:
        self.steps = 0
        self._adam = keras.optimizers.Adam(learning_rate)

    def variables(self) -> list[keras.Variable]:
        return [each for each in self._adam.variables if each.name != "learning_rate"]

    def apply_gradients(self, pairs: list[tuple[tf.Tensor, tf.Variable]]) -> None:
        self.steps += 1
        self._adam.apply_gradients(pairs)


class CleverhansSPSA(SPSA):
    """cleverhans' `spsa`, one image at a time; needs no gradient."""

    name = "cleverhans/SPSA"

    def perturb(self, batch: Batch) -> Perturbed:
        """Descends image by image."""
        infer = _logits(batch)

        def loss(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            logits = infer(images)
            return -spsa.margin_logit_loss(logits, labels, logits.shape[-1])

        def search(one: Batch) -> Perturbed:
            _set_seed(one)
            optimizer = _SPSAAdam(self)
            images = spsa.projected_optimization(
                loss,
                tf.constant(one.images),
                tf.constant(one.labels),
                self.eps,
                self.nb_iter,
                optimizer,
                early_stop_loss_threshold=self.early_stop_loss_threshold,
                **_BOX,
            )
            # What it adds up may round beyond 0 or 1.
            return Perturbed(np.clip(images, 0, 1), optimizer.steps)

        return in_parts(batch, 1, search)


class _SPSAAdam(spsa.SPSAAdam):
    """cleverhans' optimizer, made as Keras 3 has it; counts its steps."""

    def __init__(self, attack: SPSA) -> None:
        keras.optimizers.Adam.__init__(self, attack.learning_rate)
        self.lr = attack.learning_rate
        self.steps = 0
        self._delta = attack.delta
        self._num_samples = attack.spsa_samples // 2
        self._num_iters = attack.spsa_iters

    def minimize(self, *arguments: Any) -> Any:
        self.steps += 1
        return super().minimize(*arguments)


# One object, by which cleverhans tells what it has traced.
def _margin(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return rivals_lead(logits, labels, "margin")


def _logits(batch: Batch) -> Logits:
    # The same object at every call, for the same reason.
    return once_per_model(batch.model, "cleverhans", lambda infer: lambda x: infer(x))


def _set_seed(batch: Batch) -> None:
    numbers = np.array([batch.seed, Stream.CLEVERHANS, *batch.ids], np.int64)
    digest = hashlib.sha256(numbers.tobytes()).digest()
    tf.random.set_seed(int.from_bytes(digest[:4], "big"))
