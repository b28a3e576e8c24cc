"""The one form in which every attack is called, what it gives back, and its ball."""

import abc
import contextlib
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args, get_origin

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import (
    UNIT,
    Bounds,
    FloatArray,
    IntArray,
    check_count,
    check_flag,
    check_ids,
    check_images,
    check_labels,
    check_number,
    check_positive,
    check_range_is_used,
    check_share,
)
from keras_traps._pixels import from_unit
from keras_traps.attacks.loop import (
    NON_FINITE,
    Loss,
    Stream,
    once_per_model,
    per_example,
    refuse,
)
from keras_traps.attacks.model_checks import (
    check_channels_last,
    check_differentiable,
    check_unsaturated,
)
from keras_traps.attacks.watched import Watched
from keras_traps.detectors.base import Detector
from keras_traps.models.forms import find_bounds, in_standard_form
from keras_traps.models.inference import batch_size_for, predict
from keras_traps.models.logits import attacked_form, logits_model
from keras_traps.models.outputs import (
    AttackedOutput,
    answers_of,
    check_classifier,
    check_outputs,
)

Kind = Literal["UA", "TA"]
"""Untargeted: away from the true class; targeted: towards a given one."""

TargetRule = Literal["none", "random", "least_likely"]
"""Which class a targeted attack is aimed at in an evaluation."""

Knowledge = Literal["labels", "scores", "gradients", "everything"]
"""What an attack has to know of what it attacks, the least first.

The class that the model answers with; its outputs; its gradient, and with it its
weights; or the gradient of a detector too.
"""

NormName = Literal["Linf", "L2"]
"""The norm of an attack that can have either."""


def _check_at_most_one(name: str, value: float) -> None:
    if value > 1:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected at most 1. "
            f"Received: {name}={value}"
        )


def _check_even(name: str, value: float) -> None:
    check_count(name, value)
    if value % 2:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an even number. "
            f"Received: {name}={value}"
        )


def check_radius(name: str, value: float) -> None:
    """Refuses a radius that is no share of the range of a pixel."""
    check_positive(name, value)
    if value > 1:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a share of the range of a "
            f"pixel, at most 1, such as 8 / 255. Received: {name}={value}"
        )


# What is said of a setting by its type is checked when an attack is made.
Number = Annotated[float, lambda name, value: check_number(value, name=name)]
Positive = Annotated[float, check_positive]
NotNegative = Annotated[
    float, lambda name, value: check_number(value, name=name, at_least=0)
]
NotNegativeShare = Annotated[NotNegative, _check_at_most_one]
Share = Annotated[Positive, _check_at_most_one]
Radius = Annotated[float, check_radius]
OpenShare = Annotated[float, lambda name, value: check_share(value, name=name)]
Count = Annotated[int, check_count]
TwoOrMore = Annotated[int, functools.partial(check_count, at_least=2)]
Even = Annotated[int, _check_even]

_DTYPES: dict[Any, tf.DType] = {float: tf.float32, int: tf.int32, bool: tf.bool}
# A few tell what a model returns: all would cost an attack of one step a third of its
# time.
_PROBED = 32
# Rounding of x + eps in float32, for pixels in [0, 1].
_TOLERANCE = 1e-6
# Of the length of a whole image's change, as a share of it.
_LENGTH_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack made of a batch.

    Args:
        images: The adversarial images: the shape of the input, float32, in its range.
        success: `(batch,)`, bool: the attacked model answers with another class than
            `y` (untargeted), or with the target (targeted), and, where a detector
            watches, that does not flag the image.
        answers: `(batch,)`, int64: the class that it answers with.
        l0: `(batch,)`, int64: how many values changed.
        l2: `(batch,)`, float32: L2 distance to the clean image, in shares of the range
            of a pixel.
        linf: `(batch,)`, float32: largest change of a value, in the same.
        iterations: `(batch,)`, int64: how many steps the attack spent on each.
        flagged: `(batch,)`, bool: a detector watches, and flags the image.
        rejections: `(batch,)`, int64: of an attack that asks, how many of its queries a
            detector that watches flagged; else 0.
    """

    images: FloatArray
    success: npt.NDArray[np.bool_]
    answers: IntArray
    l0: IntArray
    l2: FloatArray
    linf: FloatArray
    iterations: IntArray
    flagged: npt.NDArray[np.bool_]
    rejections: IntArray


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """What an attack gives back.

    Args:
        images: Adversarial images, float32, of the shape of the batch's; a clean image
            where a search found nothing.
        iterations: `(batch,)`, integers: how many steps were spent on each, or one
            number for all.
        rejections: `(batch,)`, integers, or one number for all: how many of them the
            detector flagged, where they are queries. Defaults to `0`.
    """

    images: tf.Tensor | FloatArray
    iterations: tf.Tensor | IntArray | int
    rejections: IntArray | int = 0


@dataclasses.dataclass(frozen=True)
class Batch:
    """What an attack gets to work on.

    Args:
        model: The model, which returns logits or scores. What is compiled for it is
            kept by `once_per_model`.
        loss: What an attack that follows a loss is to follow; says nothing to others.
        images: `(batch, height, width, channels)`, float32, in [0, 1].
        labels: `(batch,)`, int64: the true classes, or the targets of a targeted
            attack.
        ids: `(batch,)`, int64: which example each is.
        seed: The seed of the run.
        background: `(images, ...)`, float32: further images, without labels, for
            attacks that learn from many.
        watched: The detector that flags what it is shown. Defaults to `None`, also for
            an attack that takes none.
    """

    model: keras.Model
    loss: Loss
    images: FloatArray
    labels: IntArray
    ids: IntArray
    seed: int
    background: FloatArray
    watched: Watched | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(abc.ABC):
    """An attack with its hyper-parameters.

    Subclasses are frozen dataclasses whose fields carry cleverhans' names. One that
    checks its fields in a `__post_init__` of its own calls this one first, which makes
    NumPy's scalars Python's and checks what the fields' types say.

    What a class declares of itself: its `name` and `kind`; the `target_rule` by which
    an evaluation aims it; the `losses` that it follows, its own first, none for one
    with an objective of its own; a `note` for reports; the `knowledge` that it has;
    whether it `needs_gradient`; whether it `takes_detector`, to evade it, and whether
    it `needs_detector`, with a `tf_score`; whether it `needs_channels_last`; and
    whether it `searches`: then an example on which it fails comes back as the clean
    image.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind] = "UA"
    target_rule: ClassVar[TargetRule] = "none"
    losses: ClassVar[tuple[Loss, ...]] = ()
    note: ClassVar[str] = ""
    knowledge: ClassVar[Knowledge] = "gradients"
    needs_gradient: ClassVar[bool] = True
    takes_detector: ClassVar[bool] = False
    needs_detector: ClassVar[bool] = False
    searches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                value = value.item()
                object.__setattr__(self, field.name, value)
            _check_setting(field.name, value, field.type)

    @abc.abstractmethod
    def perturb(self, batch: Batch) -> Perturbed:
        """Attacks one batch.

        Args:
            batch: What to work on.

        Returns:
            Adversarial images, with the steps spent on each.
        """

    @property
    def needs_channels_last(self) -> bool:
        """Whether it tells the height and width of images from their channels."""
        return False

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
        bounds: Bounds | None = None,
        output: AttackedOutput = "logits",
        y_target: npt.ArrayLike | None = None,
        loss: Loss | None = None,
        seed: int = 0,
        ids: npt.ArrayLike | None = None,
        background: npt.ArrayLike | None = None,
        batch_size: int | None = None,
        detector: Detector | None = None,
    ) -> AttackResult:
        """Attacks a model.

        Args:
            model: A built Keras classifier of images of one size.
            x: `(batch, ...)`, pixels in `bounds`: images as the model takes them.
            y: `(batch,)`, integers: the true classes.
            bounds: The least and the largest value of a pixel. Radii are shares of
                their distance. Defaults to `None`: those of a trapped model, else
                `(0.0, 1.0)`.
            output: What `model` returns; `"scores"` for a trapped model, whose
                normalised sum is attacked as logits, as the paper's platform does.
                Defaults to `"logits"`.
            y_target: `(batch,)`, integers: the target of each example, for targeted
                attacks only.
            loss: What the attack follows, one of its `losses`. Defaults to `None`: its
                own, which is the cross-entropy, or an objective that is no loss.
            seed: Seed of all randomness, not below 0. Defaults to `0`.
            ids: `(batch,)`, integers, not below 0: which example each is. With the same
                ids an example meets the same randomness in any batch. Defaults to 0, 1,
                ...
            background: `(images, ...)`: images without labels that a universal attack
                learns from. Defaults to `x`.
            batch_size: How many images at once, at least 1. Defaults to `None`: 250,
                fewer where images are large.
            detector: What watches the model, such as a fitted
                `keras_traps.ForensicAnalyzer`, and flags at the largest of its `fprs`.
                Only what it does not flag is a success. Defaults to `None`.

        Returns:
            The adversarial images with what became of each.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If an argument is out of its range, the model's own rescaling
                does not fit `bounds`, the attack does not follow `loss`, targets are
                missing, not asked for or equal to the true class, a detector is
                missing, not taken or without the `tf_score` that the attack needs,
                the outputs are not what `output` declares, or they are 0 behind a
                softmax that was not found.
            RuntimeError: If a gradient, a detector's score, the result or the model's
                output on it is not finite, or the result leaves `bounds` or its ball.
        """
        num_classes = check_classifier(
            model, output, known=get_args(AttackedOutput), name="model"
        )
        bounds = find_bounds(model, bounds)
        if self.needs_channels_last:
            check_channels_last(model, name=self.name)
        shape = model.input_shape[1:]
        given = check_images(x, shape, bounds=bounds, name="x")
        check_range_is_used(given, bounds, name="x")
        clean = in_standard_form(given, bounds)
        labels = check_labels(y, len(clean), num_classes)
        if loss is not None and loss not in self.losses:
            raise ValueError(
                f"Invalid value for argument `loss`. {self.name} follows "
                f"{self.losses or 'an objective of its own'}: expected one of them, or "
                f"`None`. Received: loss={loss!r}"
            )
        self._check_detector(detector)
        watched = None if detector is None else Watched(detector, bounds, shape)
        check_count("seed", seed, at_least=0)
        if batch_size is None:
            batch_size = batch_size_for(shape, most=250)
        check_count("batch_size", batch_size)
        goals = self._goals(y_target, labels, num_classes)
        numbers = np.arange(len(clean)) if ids is None else check_ids(ids, len(clean))
        others = clean
        if background is not None:
            some = check_images(background, shape, bounds=bounds, name="background")
            others = in_standard_form(some, bounds)
        if output != "scores":
            few = predict(model, given[:_PROBED], batch_size=batch_size)
            check_outputs(few, output)
        if output == "probabilities":
            logits = logits_model(model, output)
            check_unsaturated(model, logits, given, batch_size=batch_size)
        attacked = attacked_form(model, output, bounds)
        if self.needs_gradient:
            once_per_model(
                attacked, "differentiable", lambda _: check_differentiable(attacked)
            )
        own: Loss = self.losses[0] if self.losses else "cross_entropy"
        follows = loss or own
        images = np.empty_like(clean)
        iterations, rejections = np.empty((2, len(clean)), np.int64)
        # Not by `in_parts`: few frames are to lie between a call and the gradient.
        for start in range(0, len(clean), batch_size):
            rows = slice(start, start + batch_size)
            part = clean[rows], goals[rows], numbers[rows]
            batch = Batch(attacked, follows, *part, seed, others, watched)
            with naming_examples(f"{self.name} on {attacked.name!r}"):
                made = self.perturb(batch)
            images[rows], iterations[rows] = made.images, made.iterations
            rejections[rows] = made.rejections
            _check_result(self, batch, images[rows])

        def ask(images: FloatArray) -> FloatArray:
            return answers_of(predict(model, images, batch_size=batch_size), output)

        moved = from_unit(images.reshape(given.shape), bounds)
        if bounds != UNIT:
            # What has not changed is as it was, to the last digit.
            moved = np.where((images == clean).reshape(given.shape), given, moved)
        outputs = ask(moved)
        fault = f"{self.name} gave images on which the model's outputs are not finite,"
        refuse(np.logical_not(np.isfinite(outputs).all(axis=1)), numbers, fault)
        answers, flagged = outputs.argmax(axis=1), np.zeros(len(clean), bool)
        if watched is not None:
            flagged = watched.detect_taken(moved, numbers).is_adversarial.copy()
        lost = ((answers == goals) != self.targeted) | flagged
        lost &= (images != clean).any(axis=(1, 2, 3))
        # A search has seen a success, but by a lead that rounding may take: in a batch
        # of another size, or in a softmax of half precision.
        if self.searches and lost.any():
            images[lost], moved[lost] = clean[lost], given[lost]
            answers[lost] = ask(given[lost]).argmax(axis=1)
            if watched is not None:
                found = watched.detect_taken(given[lost], numbers[lost])
                flagged[lost] = found.is_adversarial
        return AttackResult(
            images=moved,
            success=((answers == goals) == self.targeted) & ~flagged,
            answers=answers,
            iterations=iterations,
            flagged=flagged,
            rejections=rejections,
            **distances(clean, images)._asdict(),
        )

    def _goals(
        self, y_target: npt.ArrayLike | None, labels: IntArray, num_classes: int
    ) -> IntArray:
        """Returns the targets, or the true classes for an attack that aims at none."""
        if self.targeted == (y_target is None):
            expected = "targeted: expected one class per example"
            raise ValueError(
                f"Invalid value for argument `y_target`. {self.name} is "
                f"{expected if self.targeted else 'untargeted and takes none'}. "
                f"Received: {'None' if y_target is None else 'classes'}"
            )
        if y_target is None:
            return labels
        targets = check_labels(y_target, len(labels), num_classes, name="y_target")
        if (targets == labels).any():
            raise ValueError(
                "Invalid value for argument `y_target`. Expected targets other than "
                "the true class. Received the true class at index "
                f"{int(np.argmax(targets == labels))}."
            )
        return targets

    def _check_detector(self, detector: Detector | None) -> None:
        """Refuses one that is not taken or does not suit, or that there is none."""
        if detector is None:
            if self.needs_detector:
                raise ValueError(
                    f"Invalid value for argument `detector`. {self.name} evades a "
                    "detector: expected one with a `tf_score`, such as a fitted "
                    "`ForensicAnalyzer`. Received: None"
                )
            return
        kind = type(detector).__name__
        if not isinstance(detector, Detector):
            raise TypeError(
                "Invalid value for argument `detector`. Expected `fprs`, `threshold`, "
                f"`score` and `detect`, as `keras_traps.detectors.Detector` has them. "
                f"Received: {kind}"
            )
        if not self.takes_detector:
            taking = sorted({one.name for one in _kinds(Attack) if one.takes_detector})
            raise ValueError(
                f"Invalid value for argument `detector`. {self.name} takes none; those "
                f"that do are {', '.join(taking)}. Received: {kind}"
            )
        if self.needs_detector and not hasattr(detector, "tf_score"):
            raise ValueError(
                f"Invalid value for argument `detector`. {self.name} follows the "
                f"gradient of a score: expected a detector with a `tf_score`. "
                f"Received: {kind}"
            )


def _kinds(kind: Any) -> Iterator[type[Attack]]:
    """Lists the attacks that are of a kind, by their names."""
    for one in kind.__subclasses__():
        if hasattr(one, "name"):
            yield one
        yield from _kinds(one)


def _check_setting(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) in (types.UnionType, typing.Union) and len(get_args(kind)) == 2:
        # One that may be `None`.
        kind = next(one for one in get_args(kind) if one is not type(None))
        if value is None:
            return
    if kind is bool:
        check_flag(name, value)
    elif get_origin(kind) is Annotated:
        for check in kind.__metadata__:
            check(name, value)
    elif get_origin(kind) is Literal and value not in get_args(kind):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of {get_args(kind)}. "
            f"Received: {name}={value!r}"
        )


def numbers_of(attack: Attack) -> dict[str, tf.Tensor]:
    """Returns the settings that are numbers, by name, as compiled graphs take them."""
    kinds = typing.get_type_hints(type(attack))
    return {
        name: tf.constant(value, _DTYPES[kinds[name]])
        for name, value in attack.settings().items()
        if kinds[name] in _DTYPES
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinfAttack(Attack):
    """An attack in an L-infinity ball."""

    eps: Radius

    @property
    def linf_bound(self) -> float | None:
        """The radius of the ball."""
        return self.eps


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormAttack(Attack):
    """An attack in a ball of either norm."""

    eps: Positive
    norm: NormName = "Linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "Linf":
            check_radius("eps", self.eps)

    @property
    def linf_bound(self) -> float | None:
        """The radius of the L-infinity ball, if it is one."""
        return self.eps if self.norm == "Linf" else None

    @property
    def l2_bound(self) -> float | None:
        """The radius of the L2 ball, if it is one."""
        return self.eps if self.norm == "L2" else None


def in_parts(
    batch: Batch, size: int, perturb: Callable[[Batch], Perturbed]
) -> Perturbed:
    """Attacks a batch, `size` examples at once."""
    images = np.empty_like(batch.images)
    iterations = np.empty(len(batch.ids), np.int64)
    for start in range(0, len(batch.ids), size):
        rows = slice(start, start + size)
        part = {
            name: getattr(batch, name)[rows] for name in ("images", "labels", "ids")
        }
        made = perturb(dataclasses.replace(batch, **part))
        images[rows], iterations[rows] = made.images, made.iterations
    return Perturbed(images, iterations)


def ball_noise(
    batch: Batch, draw: Callable[[tuple[int, ...], np.random.Generator], npt.ArrayLike]
) -> FloatArray:
    """Draws noise for each image of a batch, `draw` given its shape and a generator."""
    noise = functools.partial(draw, batch.images.shape[1:])
    drawn = per_example(noise, batch.ids, batch.seed, Stream.BALL_NOISE)
    return drawn.astype(np.float32)


def uniform_start(batch: Batch, eps: float) -> FloatArray:
    """Draws a uniformly random point of each image's L-infinity ball, in [0, 1]."""
    shift = ball_noise(batch, lambda shape, draw: draw.uniform(-1, 1, shape))
    radius = np.float32(eps)
    low, high = batch.images - radius, batch.images + radius
    moved = np.clip(batch.images + eps * shift, low, high)
    return np.clip(moved, 0, 1)


class Distances(NamedTuple):
    """The size of the change of each image."""

    l0: IntArray
    l2: FloatArray
    linf: FloatArray


def distances(clean: FloatArray, images: FloatArray) -> Distances:
    """Measures the change of each image.

    Args:
        clean: `(batch, ...)`, float32.
        images: What became of them, of the same shape.

    Returns:
        The norms of the differences.
    """
    change = (images - clean).reshape(len(clean), -1)
    return Distances(
        l0=(change != 0).sum(axis=1),
        l2=np.linalg.norm(change, axis=1).astype(np.float32),
        linf=np.abs(change).max(axis=1),
    )


def _check_result(attack: Attack, batch: Batch, images: FloatArray) -> None:
    """Refuses images that are not finite, or leave [0, 1] or their ball."""
    values = images.reshape(len(images), -1)
    infinite = np.logical_not(np.isfinite(values).all(axis=1))
    refuse(infinite, batch.ids, f"{attack.name} gave images that are not finite,")
    low, high = values.min(axis=1), values.max(axis=1)
    reach = f": its images reach from {low.min()} to {high.max()}"
    refuse((low < 0) | (high > 1), batch.ids, f"{attack.name} left [0, 1]", reach)
    _, l2, linf = distances(batch.images, images)
    l2_slack = _TOLERANCE * np.sqrt(values.shape[1])
    l2_slack += _LENGTH_TOLERANCE * (attack.l2_bound or 0.0)
    for ball, bound, length, slack in (
        ("ball", attack.linf_bound, linf, _TOLERANCE),
        ("L2 ball", attack.l2_bound, l2, l2_slack),
    ):
        if bound is not None:
            far = np.greater(length, bound + slack)
            fault = f"{attack.name} left its {ball} of radius {bound}"
            refuse(far, batch.ids, fault, f": an image moved by {length.max()}")


@contextlib.contextmanager
def naming_examples(who: str, *, of: str = "") -> Iterator[None]:
    """Says at which examples, `of` what, a gradient that `who` takes is not finite."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # TensorFlow writes "...] [13 14]" in a graph and "...' 13, 14" outside.
        found = re.search(rf"{NON_FINITE}\W*([\d ,]*\d(\.\.\.)?)", error.message)
        if found is None:
            raise
        ids = found[1].replace(",", "")
        raise RuntimeError(f"{who}: {NON_FINITE} [{ids}]{of}.") from None


def random_targets(
    y: IntArray, num_classes: int, *, seed: int, ids: IntArray
) -> IntArray:
    """Draws a wrong class for each example, each as likely as the others.

    Args:
        y: `(batch,)`: the true classes.
        num_classes: How many classes, at least 2.
        seed: Seed of the draw, not below 0.
        ids: `(batch,)`: which example each is; its draw depends on nothing else.

    Returns:
        `(batch,)`, int64; never the true class.

    Raises:
        ValueError: If there are fewer than two classes, or the seed is below 0.
    """
    check_count("num_classes", num_classes, at_least=2)
    check_count("seed", seed, at_least=0)
    offsets = per_example(
        lambda generator: generator.integers(1, num_classes), ids, seed, Stream.TARGETS
    )
    return (y + offsets.astype(np.int64)) % num_classes


def least_likely_targets(
    outputs: FloatArray, labels: npt.ArrayLike | None = None
) -> IntArray:
    """Returns the class that the model holds least likely.

    Probabilities saturate: of a sure classifier those of many classes are exactly 0,
    of which the first is returned. Logits tell them apart.

    Args:
        outputs: `(batch, num_classes)`: logits or probabilities on clean images.
        labels: `(batch,)`, integers: the true classes, at which no targeted attack
            aims. Without them an example that the model has quite wrong may get its
            true class. Defaults to `None`.

    Returns:
        `(batch,)`, int64; with `labels` never the true class.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the labels do not fit the outputs, or there are fewer than two
            classes to choose from.
    """
    if labels is None:
        return outputs.argmin(axis=1).astype(np.int64)
    count, num_classes = outputs.shape
    check_count("num_classes", num_classes, at_least=2)
    true = check_labels(labels, count, num_classes, name="labels")
    # Not by a large number in its place, which other outputs may reach.
    others = np.arange(num_classes) != true[:, None]
    wrong = outputs[others].reshape(count, num_classes - 1).argmin(axis=1)
    return (wrong + (wrong >= true)).astype(np.int64)
