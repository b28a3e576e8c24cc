"""The one form in which every attack is called, and what it gives back."""

import abc
import dataclasses
from typing import Any, ClassVar, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._validation import FloatArray, IntArray, check_images, check_labels
from keras_traps.attacks.losses import Logits, Loss, check_loss, logits_under_loss
from keras_traps.models.inference import inference_function, predict
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import (
    AttackedOutput,
    check_classifier,
    check_outputs,
)

Kind = Literal["UA", "TA"]
TargetRule = Literal["none", "random", "least_likely"]

# Rounding of x + eps in float32, for pixels in [0, 1].
_BALL_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack made of a batch.

    Args:
        images: The adversarial images: the shape of the input, float32, in [0, 1].
        success: `(batch,)`, bool: the attacked model answers with another class than
            `y` (untargeted), or with the target (targeted).
        l0: `(batch,)`, int64: how many values changed.
        l2: `(batch,)`, float32: L2 distance to the clean image, pixels in [0, 1].
        linf: `(batch,)`, float32: largest change of a value.
    """

    images: FloatArray
    success: npt.NDArray[np.bool_]
    l0: IntArray
    l2: FloatArray
    linf: FloatArray


@dataclasses.dataclass(frozen=True)
class Batch:
    """What an attack gets to work on.

    Args:
        logits: The model, one trace for all batch sizes, seen under the asked loss.
        images: `(batch, height, width, channels)`, float32, in [0, 1].
        labels: `(batch,)`, int64: the true classes, or the targets of a targeted
            attack.
        ids: `(batch,)`, int64: which example each is.
        seed: The seed of the run.
    """

    logits: Logits
    images: FloatArray
    labels: IntArray
    ids: IntArray
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(abc.ABC):
    """An attack with its hyper-parameters.

    Subclasses are frozen dataclasses whose fields carry cleverhans' names.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    target_rule: ClassVar[TargetRule] = "none"
    note: ClassVar[str] = ""

    @abc.abstractmethod
    def perturb(self, batch: Batch) -> tf.Tensor:
        """Attacks one batch.

        Args:
            batch: What to work on.

        Returns:
            Adversarial images, float32, of the shape of `batch.images`.
        """

    @property
    def linf_bound(self) -> float | None:
        """The radius of the L-infinity ball that holds every result, or `None`."""
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
        batch_size: int = 250,
    ) -> AttackResult:
        """Attacks a model.

        Args:
            model: A built Keras classifier.
            x: `(batch, height, width, channels)`, floating point, pixels in [0, 1].
            y: `(batch,)`, integers: the true classes.
            output: What `model` returns; `"scores"` for a trapped model, whose
                normalised sum is attacked as logits, as the paper's platform does.
                Defaults to `"logits"`.
            y_target: `(batch,)`, integers: the target of each example, for targeted
                attacks only.
            loss: What the attack follows. Defaults to `"cross_entropy"`.
            seed: Seed of all randomness. Defaults to `0`.
            ids: `(batch,)`, integers: which example each is. With the same ids an
                example meets the same randomness in any batch. Defaults to 0, 1, ...
            batch_size: How many images at once. Defaults to `250`.

        Returns:
            The adversarial images with what became of each.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If an argument is out of its range, targets are missing, not
                asked for or equal to the true class, or the outputs are not what
                `output` declares.
            RuntimeError: If the result is not finite or leaves [0, 1] or its ball.
        """
        num_classes = check_classifier(
            model, output, known=get_args(AttackedOutput), name="model"
        )
        clean = check_images(x, model.input_shape[1:], name="x")
        labels = check_labels(y, len(clean), num_classes)
        check_loss(loss)
        if batch_size < 1:
            raise ValueError(
                "Invalid value for argument `batch_size`. Expected at least 1. "
                f"Received: batch_size={batch_size}"
            )
        goals = self._goals(labels, y_target, num_classes)
        numbers = (
            np.arange(len(clean))
            if ids is None
            else check_labels(ids, len(clean), np.iinfo(np.int64).max, name="ids")
        )
        if output != "scores":
            check_outputs(predict(model, clean[:batch_size]), output)
        # Held by a name for as long as `infer` is called, which does not keep it alive.
        attacked = logits_model(model, output)
        infer = inference_function(attacked)
        parts = [
            self._attack_batch(
                infer, clean[part], goals[part], numbers[part], seed, loss
            )
            for part in _slices(len(clean), batch_size)
        ]
        images = np.concatenate(parts)
        answers = predict(model, images, batch_size=batch_size).argmax(axis=1)
        success = answers == goals if self.targeted else answers != labels
        change = (images - clean).reshape(len(clean), -1)
        return AttackResult(
            images=images,
            success=success,
            l0=(change != 0).sum(axis=1),
            l2=np.linalg.norm(change, axis=1).astype(np.float32),
            linf=np.abs(change).max(axis=1),
        )

    def _goals(
        self, labels: IntArray, y_target: npt.ArrayLike | None, num_classes: int
    ) -> IntArray:
        if not self.targeted:
            if y_target is not None:
                raise ValueError(
                    f"Invalid value for argument `y_target`. {self.name} is "
                    "untargeted and takes none."
                )
            return labels
        if y_target is None:
            raise ValueError(
                f"Invalid value for argument `y_target`. {self.name} is targeted: "
                "expected one class per example. Received: None"
            )
        goals = check_labels(y_target, len(labels), num_classes, name="y_target")
        if (goals == labels).any():
            raise ValueError(
                "Invalid value for argument `y_target`. Expected targets other than "
                "the true class. Received the true class at index "
                f"{int(np.argmax(goals == labels))}."
            )
        return goals

    def _attack_batch(
        self,
        infer: Logits,
        images: FloatArray,
        goals: IntArray,
        ids: IntArray,
        seed: int,
        loss: Loss,
    ) -> FloatArray:
        logits = logits_under_loss(infer, tf.constant(goals), loss)
        result = self.perturb(Batch(logits, images, goals, ids, seed))
        adversarial = np.asarray(result, np.float32)
        self._check_result(images, adversarial)
        return adversarial

    def _check_result(self, images: FloatArray, adversarial: FloatArray) -> None:
        low, high = adversarial.min(), adversarial.max()
        if not (low >= 0 and high <= 1):
            raise RuntimeError(
                f"{self.name} left [0, 1]: its images reach from {low} to {high}."
            )
        bound = self.linf_bound
        reach = np.abs(adversarial - images).max()
        if bound is not None and reach > bound + _BALL_TOLERANCE:
            raise RuntimeError(
                f"{self.name} left its ball of radius {bound}: a value moved by "
                f"{reach}."
            )


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
