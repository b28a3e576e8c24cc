"""The one form in which every attack is called, and what it gives back."""

import abc
import dataclasses
from typing import Any, ClassVar, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import (
    FloatArray,
    IntArray,
    check_count,
    check_flag,
    check_ids,
    check_images,
    check_labels,
)
from keras_traps.attacks.checks import (
    check_channels_last,
    check_image_model,
)
from keras_traps.attacks.differentiability import check_differentiable
from keras_traps.attacks.distances import distances
from keras_traps.attacks.loop import once_per_model
from keras_traps.attacks.losses import Loss, check_loss
from keras_traps.attacks.outcome import judge
from keras_traps.attacks.promises import check_result, naming_examples
from keras_traps.attacks.saturation import check_unsaturated
from keras_traps.attacks.targets import check_targets
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import (
    AttackedOutput,
    check_classifier,
    check_outputs,
)

Kind = Literal["UA", "TA"]
TargetRule = Literal["none", "random", "least_likely"]

_PROBED = 32


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack made of a batch.

    Args:
        images: The adversarial images: the shape of the input, float32, in [0, 1].
        success: `(batch,)`, bool: the attacked model answers with another class than
            `y` (untargeted), or with the target (targeted).
        answers: `(batch,)`, int64: the class that it answers with.
        l0: `(batch,)`, int64: how many values changed.
        l2: `(batch,)`, float32: L2 distance to the clean image, pixels in [0, 1].
        linf: `(batch,)`, float32: largest change of a value.
        iterations: `(batch,)`, int64: how many steps the attack spent on each.
    """

    images: FloatArray
    success: npt.NDArray[np.bool_]
    answers: IntArray
    l0: IntArray
    l2: FloatArray
    linf: FloatArray
    iterations: IntArray


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """What an attack gives back.

    Args:
        images: Adversarial images, float32, of the shape of the batch's; a clean image
            where a search found nothing.
        iterations: `(batch,)`, integers: how many steps were spent on each, or one
            number for all.
    """

    images: tf.Tensor | FloatArray
    iterations: tf.Tensor | IntArray | int


@dataclasses.dataclass(frozen=True)
class Batch:
    """What an attack gets to work on.

    Args:
        model: The model, which returns logits or scores. What is compiled for it is
            kept by `once_per_model`.
        loss: What a gradient attack is to follow.
        images: `(batch, height, width, channels)`, float32, in [0, 1].
        labels: `(batch,)`, int64: the true classes, or the targets of a targeted
            attack.
        ids: `(batch,)`, int64: which example each is.
        seed: The seed of the run.
        background: `(images, ...)`, float32: further images, without labels, for
            attacks that learn from many.
    """

    model: keras.Model
    loss: Loss
    images: FloatArray
    labels: IntArray
    ids: IntArray
    seed: int
    background: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(abc.ABC):
    """An attack with its hyper-parameters.

    Subclasses are frozen dataclasses whose fields carry cleverhans' names. One that
    checks its fields in a `__post_init__` of its own calls this one first. One that
    `searches` gives back the clean image of an example on which it fails; one that
    `needs_channels_last` tells the height and width of images from their channels.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    target_rule: ClassVar[TargetRule] = "none"
    note: ClassVar[str] = ""
    needs_gradient: ClassVar[bool] = True
    needs_channels_last: ClassVar[bool] = False
    searches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Makes NumPy's scalars Python's, and checks the flags."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                value = value.item()
                object.__setattr__(self, field.name, value)
            if field.type is bool:
                check_flag(field.name, value)

    @abc.abstractmethod
    def perturb(self, batch: Batch) -> Perturbed:
        """Attacks one batch.

        Args:
            batch: What to work on.

        Returns:
            Adversarial images, with the steps spent on each.
        """

    @property
    def linf_bound(self) -> float | None:
        """The radius of the L-infinity ball that holds every result, or `None`."""
        return None

    @property
    def l2_bound(self) -> float | None:
        """The radius of the L2 ball that holds every result, or `None`."""
        return None

    @property
    def targeted(self) -> bool:
        """Whether the attack aims at a class."""
        return self.kind == "TA"

    def settings(self) -> dict[str, Any]:
        """Returns the hyper-parameters as plain data."""
        return dataclasses.asdict(self)

    def __call__(
        self,
        model: keras.Model,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        output: AttackedOutput = "logits",
        y_target: npt.ArrayLike | None = None,
        loss: Loss = "cross_entropy",
        seed: int = 0,
        ids: npt.ArrayLike | None = None,
        background: npt.ArrayLike | None = None,
        batch_size: int = 250,
    ) -> AttackResult:
        """Attacks a model.

        Args:
            model: A built Keras classifier of images of one size.
            x: `(batch, height, width, channels)`, floating point, pixels in [0, 1].
            y: `(batch,)`, integers: the true classes.
            output: What `model` returns; `"scores"` for a trapped model, whose
                normalised sum is attacked as logits, as the paper's platform does.
                Defaults to `"logits"`.
            y_target: `(batch,)`, integers: the target of each example, for targeted
                attacks only.
            loss: What the attack follows. Those with an objective of their own leave
                it unused: UAP, DeepFool, SPSA, BLB, the search attacks CW2, UCW2, EAD
                and OM, and JSMA with the map of the logits. Defaults to
                `"cross_entropy"`.
            seed: Seed of all randomness, not below 0. Defaults to `0`.
            ids: `(batch,)`, integers, not below 0: which example each is. With the same
                ids an example meets the same randomness in any batch. Defaults to 0, 1,
                ...
            background: `(images, height, width, channels)`: images without labels that
                a universal attack learns from. Defaults to `x`.
            batch_size: How many images at once, at least 1. Defaults to `250`.

        Returns:
            The adversarial images with what became of each.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If an argument is out of its range, targets are missing, not
                asked for or equal to the true class, the outputs are not what `output`
                declares, or they are 0 behind a softmax that was not found.
            RuntimeError: If a gradient, the result or the model's output on it is not
                finite, or the result leaves [0, 1] or its ball.
        """
        num_classes = check_classifier(
            model, output, known=get_args(AttackedOutput), name="model"
        )
        check_image_model(model)
        if self.needs_channels_last:
            check_channels_last(model, name=self.name)
        clean = check_images(x, model.input_shape[1:], name="x")
        labels = check_labels(y, len(clean), num_classes)
        check_loss(loss)
        check_count("seed", seed, at_least=0)
        check_count("batch_size", batch_size)
        goals = check_targets(
            y_target, labels, num_classes, name=self.name, targeted=self.targeted
        )
        numbers = np.arange(len(clean)) if ids is None else check_ids(ids, len(clean))
        if output != "scores":
            # A few tell: all would cost an attack of one step a third of its time.
            few = predict(model, clean[:_PROBED], batch_size=batch_size)
            check_outputs(few, output)
        attacked = logits_model(model, output)
        if output == "probabilities":
            check_unsaturated(model, attacked, clean, batch_size=batch_size)
        if self.needs_gradient:
            once_per_model(
                attacked, "differentiable", lambda _: check_differentiable(attacked)
            )
        others = (
            clean
            if background is None
            else check_images(background, model.input_shape[1:], name="background")
        )
        parts = [
            self._attack_batch(
                Batch(
                    model=attacked,
                    loss=loss,
                    images=clean[part],
                    labels=goals[part],
                    ids=numbers[part],
                    seed=seed,
                    background=others,
                )
            )
            for part in _slices(len(clean), batch_size)
        ]
        outcome = judge(
            lambda images: predict(model, images, batch_size=batch_size),
            clean,
            np.concatenate([part[0] for part in parts]),
            numbers,
            goals,
            who=self.name,
            targeted=self.targeted,
            searches=self.searches,
        )
        return AttackResult(
            **outcome._asdict(),
            **distances(clean, outcome.images)._asdict(),
            iterations=np.concatenate([part[1] for part in parts]),
        )

    def _attack_batch(self, batch: Batch) -> tuple[FloatArray, IntArray]:
        with naming_examples(f"{self.name} on {batch.model.name!r}"):
            result = self.perturb(batch)
        adversarial = np.asarray(result.images, np.float32)
        check_result(
            self.name,
            batch.images,
            adversarial,
            batch.ids,
            linf_bound=self.linf_bound,
            l2_bound=self.l2_bound,
        )
        iterations = np.broadcast_to(result.iterations, len(batch.ids))
        return adversarial, iterations.astype(np.int64)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
