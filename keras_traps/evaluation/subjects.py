"""Who is attacked, as what, on which images, and what is asked of the outcome."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import keras
import numpy as np
import numpy.typing as npt

from keras_traps import attacks, attractors
from keras_traps._checks import UNIT, Bounds, FloatArray, IntArray, check_count
from keras_traps._pixels import to_unit
from keras_traps.attacks import Attack, Loss
from keras_traps.attractors import ForensicAnalyzer, TrapSettings
from keras_traps.datasets import Dataset
from keras_traps.detectors import Detector
from keras_traps.luring.schemes import SOFTNESS, softened
from keras_traps.models.forms import class_answers, find_bounds, for_model
from keras_traps.models.inference import predict
from keras_traps.models.outputs import AttackedOutput, Output, answers_of
from keras_traps.provenance import architecture_sha256, weights_sha256

if TYPE_CHECKING:
    from keras_traps.evaluation.records import Record

Variant = Literal[
    "paper",
    "margin",
    "raw_sum",
    "integrated",
    "integrated_label",
    "rejecting",
    "adaptive",
]
"""How an attack sees the trapped model M.

With its own loss on the normalised sum, as the paper's platform has it; with a
logit-margin loss on the same; with its own loss on C + W before its normalisation; as
the classify-detect-recover model, whose recovered answer has a gradient or none; as M
with what the analyzer says of each image; or as C alone with the same, for an attacker
who has all weights and the key. The last two are for attacks that take a detector.
"""

INTEGRATED: tuple[Variant, ...] = ("integrated", "integrated_label")
"""The variants in which flagging is part of the answer."""

Threat = Literal["luring", "whitebox", "surrogate", "identity", "softened", "exchanged"]
"""What an attacker has, to fool what luring protects; see `THREATS`."""

THREATS: dict[Threat, str] = {
    "luring": "is given M∘P and attacks it, unaware of the defence, as in the paper",
    "whitebox": "has M itself, its weights included",
    "surrogate": "trains a classifier of M's architecture on M's training images, "
    "without P, and attacks that",
    "identity": "is given M∘P and knows what P is for: the gradient takes P for the "
    "identity",
    "softened": "is given M∘P and knows that P's last sigmoid saturates: the gradient "
    "goes through a flatter one, of several the best",
    "exchanged": "is a control: each image gets the change that `luring` made for "
    "another one, with the attack's first settings",
}
"""What each attacker has and does, as the end of a sentence."""

Question = Callable[[FloatArray], npt.NDArray[Any]]
"""From images, as the attacked model takes them, to one answer, or row, for each."""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The images that are attacked; arrays have one row per image."""

    ids: IntArray  # index in the test set
    images: FloatArray  # (images, height, width, channels), in [0, 1]
    labels: IntArray
    random: IntArray  # a wrong class for each
    least_likely: IntArray  # the class that the first model holds least likely

    def __len__(self) -> int:
        return len(self.ids)

    def targets(self, attack: Attack) -> IntArray | None:
        """Returns the targets of an attack, or `None` where it has none."""
        return getattr(self, attack.target_rule, None)

    def take(self, rows: IntArray | slice) -> Examples:
        """Returns some of them, by their position."""
        return Examples(**{name: every[rows] for name, every in vars(self).items()})


class Clean(NamedTuple):
    """Clean images and their classes, without more of a data set."""

    images: FloatArray  # in [0, 1]
    labels: IntArray


def choose_examples(
    test: Dataset | Clean,
    outputs: Sequence[FloatArray],
    *,
    num_examples: int,
    seed: int = 0,
    logits: keras.Model | None = None,
    bounds: Bounds = UNIT,
) -> Examples:
    """Chooses the images to attack: the first that all models are right on.

    Of each model `outputs` has what it answers to all test images, `(images, classes)`.
    The random targets are drawn by `seed`. Where several classes have the lowest output
    of the first model, as probabilities of 0, `logits`, that model up to its logits,
    which takes images in `bounds`, tells the least likely one; without it, that is the
    first of these.

    Raises:
        ValueError: If `num_examples` is below 1, or there is no such image.
    """
    check_count("num_examples", num_examples)
    right = np.all([each.argmax(axis=1) == test.labels for each in outputs], axis=0)
    ids = np.flatnonzero(right)[:num_examples]
    if not len(ids):
        who = "The classifier is" if len(outputs) == 1 else "All models together are"
        raise ValueError(f"{who} right on none of the test images.")
    labels, images = test.labels[ids], test.images[ids]
    found = outputs[0][ids]
    least_likely = attacks.least_likely_targets(found, labels)
    # Only these: between close outputs rounding may have another order than logits.
    lowest = (found == found.min(axis=1, keepdims=True)).sum(axis=1)
    tied = np.flatnonzero(lowest > 1)
    if logits is not None and len(tied):
        exact = class_answers(logits, images[tied], "logits", bounds)
        least_likely[tied] = attacks.least_likely_targets(exact, labels[tied])
    return Examples(
        ids=ids,
        images=images,
        labels=labels,
        random=attacks.random_targets(labels, found.shape[1], seed=seed, ids=ids),
        least_likely=least_likely,
    )


class Finding(NamedTuple):
    """What a detector says of each image of a record."""

    score: FloatArray  # higher for more adversarial
    flagged: dict[float, npt.NDArray[np.bool_]]  # by false-positive rate
    recovered: IntArray | None = None  # the class before the attack
    # By how much the detector's evidence prefers the answer to the true class.
    pull: FloatArray | None = None


class RecordJudge(Protocol):
    """Tells attacked images from clean ones by what was asked of them."""

    @property
    def asked(self) -> Mapping[str, Question]:
        """What has to be asked of each image, by the names it is recorded by."""

    def judge(self, record: Record) -> Finding:
        """Judges the images of a record from its outputs alone."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """Any detector, by its scores and thresholds."""

    detector: Detector

    @property
    def asked(self) -> Mapping[str, Question]:
        """Its score."""
        return {"score": self.detector.score}

    def judge(self, record: Record) -> Finding:
        """Flags what exceeds a threshold."""
        score, limit = record["score"], self.detector.threshold
        return Finding(score, {f: score > limit(f) for f in self.detector.fprs})


@dataclasses.dataclass(frozen=True)
class Watermark:
    """Fitted analyzers of attractors, of one decoder, by false-positive rate."""

    analyzers: Mapping[float, ForensicAnalyzer]

    @property
    def asked(self) -> Mapping[str, Question]:
        """W and C's logits, `(batch, 2, num_classes)`."""
        return {"evidence": next(iter(self.analyzers.values())).evidence}

    def judge(self, record: Record) -> Finding:
        """Asks each analyzer; the score is that of the largest rate's."""
        evidence = record["evidence"]
        w = evidence[:, 0]
        verdicts = {fpr: each.judge(evidence) for fpr, each in self.analyzers.items()}
        main, rows = verdicts[max(verdicts)], np.arange(len(w))
        return Finding(
            main.score,
            {fpr: verdict.is_adversarial for fpr, verdict in verdicts.items()},
            main.recovered,
            w[rows, record["answer"]] - w[rows, record["labels"]],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is attacked, and what is asked of the adversarial images."""

    name: str
    model: keras.Model
    examples: Examples
    output: AttackedOutput = "logits"
    bounds: Bounds = UNIT  # of the pixels that the model takes
    loss: Loss | None = None  # what the attacker follows; `None`: each attack's own
    asked: Mapping[str, Question] = dataclasses.field(default_factory=dict)
    detector: RecordJudge | None = None
    # What attackers are told of each image that they show; `None`: nothing.
    told: Detector | None = None
    integrated: bool = False  # whether flagging is part of the model's answer
    # How the attacked model is made from `model`; `None`: it is that.
    view: Callable[[keras.Model], keras.Model] | None = None
    exchanged: bool = False  # whether each image gets the change of the one beside it
    # What else names it, by column of the frame.
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # What its records depend on that the settings of the store do not tell.
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # What this attacker chose among, as settings.
    choice: Mapping[str, float] = dataclasses.field(default_factory=dict)
    kept: int = 4  # how many adversarial images are kept whole

    def __post_init__(self) -> None:
        """Refuses a name that no folder can have."""
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(
                "Invalid value for argument `name`. Expected letters, digits, `_`, "
                f"`-` and `.` alone. Received: name={self.name!r}"
            )

    @functools.cached_property
    def attacked(self) -> keras.Model:
        """The model that attacks see; kept, for a new one is traced anew."""
        return self.model if self.view is None else self.view(self.model)

    def taken(self, images: FloatArray) -> FloatArray:
        """Returns images in [0, 1], such as the examples', as the model takes them."""
        return for_model(self.model, images, self.bounds)

    def in_unit(self, images: FloatArray, clean: FloatArray) -> FloatArray:
        """Does the reverse; what is as in the clean images stays so to the last bit."""
        same = (images == self.taken(clean)).reshape(clean.shape)
        return np.where(same, clean, to_unit(images, self.bounds).reshape(clean.shape))

    @property
    def questions(self) -> dict[str, Question]:
        """All that is asked of the adversarial images, by the detector too."""
        return {**(self.detector.asked if self.detector else {}), **self.asked}

    def follows(self, attack: Attack) -> bool:
        """Says whether an attack has a use for the loss and for what it is told."""
        takes, needs = attack.takes_detector, attack.needs_detector
        uses = takes if self.told is not None else not needs
        return uses and (self.loss is None or self.loss in attack.losses)


def model_subject(
    model: keras.Model,
    examples: Examples,
    *,
    name: str = "model",
    output: AttackedOutput = "logits",
    bounds: Bounds | None = None,
    loss: Loss | None = None,
    detector: Detector | None = None,
    told: bool = False,
) -> Subject:
    """Makes a subject of any built classifier, with or without a detector.

    Models of other weights or layers do not share its records. The `bounds` are those
    of the pixels that the model and the detector take, by default those of a trap in
    the model, else 0 and 1. The `loss` is what the attacker follows, by default each
    attack's own. With `told` attacks are told what the detector says of each image that
    they show, and those that have no use for it are left out.

    Raises:
        ValueError: If the name is no folder's, the bounds do not fit the model, or
            there is no detector to tell of.
    """
    if told and detector is None:
        raise ValueError(
            "Invalid value for argument `detector`. Expected one, of which attacks are "
            "told. Received: None"
        )
    bounds = find_bounds(model, bounds)
    facts = {
        "model": weights_sha256(model),
        "architecture": architecture_sha256(model),
        "output": output,
        "bounds": list(bounds),
        "loss": str(loss),
    }
    return Subject(
        name,
        model,
        examples,
        output,
        bounds,
        loss,
        detector=None if detector is None else Scored(detector),
        told=detector if told else None,
        facts=facts | (told_facts(detector) if detector is not None and told else {}),
    )


def told_facts(told: Detector) -> dict[str, Any]:
    """Returns what the records of attacks that are told of a detector depend on."""
    return {"told": [type(told).__name__, max(told.fprs), told.threshold()]}


@dataclasses.dataclass(frozen=True)
class Defence:
    """A classifier C with its traps, M, and an analyzer by false-positive rate."""

    classifier: keras.Model
    output: Output
    trapped: keras.Model
    analyzers: Mapping[float, ForensicAnalyzer]

    @property
    def main_analyzer(self) -> ForensicAnalyzer:
        """The analyzer of the largest false-positive rate."""
        return self.analyzers[max(self.analyzers)]

    @property
    def bounds(self) -> Bounds:
        """The least and the largest value of a pixel that the models take."""
        return self.main_analyzer.bounds


def defend(
    classifier: keras.Model,
    settings: TrapSettings,
    images: FloatArray,
    *,
    fprs: Sequence[float] = (0.05, 0.005),
) -> Defence:
    """Traps a classifier and fits an analyzer for each false-positive rate.

    The images, `(images, height, width, channels)`, float32, in [0, 1], are clean ones
    for the thresholds. The models take them in the settings' bounds.

    Raises:
        ValueError: If there are no rates, or too few images for one of them.
    """
    if not fprs:
        raise ValueError(
            "Invalid value for argument `fprs`. Expected at least one rate."
        )
    trapped = attractors.inject(classifier, settings)
    analyzers = {fpr: ForensicAnalyzer(trapped) for fpr in fprs}
    given = for_model(classifier, images, settings.bounds)
    evidence = next(iter(analyzers.values())).evidence(given)
    for fpr, analyzer in analyzers.items():
        analyzer.fit_evidence(evidence, fpr=fpr)
    return Defence(classifier, settings.output, trapped, analyzers)


TITLES = {
    "undefended": "the classifier",
    "paper": "the trapped model",
    "margin": "the trapped model by its margin",
    "raw_sum": "the trapped model before normalisation",
    "integrated": "the integrated model",
    "integrated_label": "the integrated model of hard labels",
    "rejecting": "the trapped model, flags told",
    "adaptive": "the trapped model, all known",
}
"""What progress calls a subject of `attractor_subjects`."""


def attractor_subjects(
    defence: Defence, examples: Examples, names: Sequence[str]
) -> list[Subject]:
    """Makes a subject of each name: `"undefended"` for C, else a variant of M.

    Their records depend on what `record_settings` tells of the defence.
    """
    integrated = functools.partial(attractors.integrate, analyzer=defence.main_analyzer)
    views: dict[str, Callable[[keras.Model], keras.Model]] = {
        "raw_sum": attractors.raw_sum,
        "integrated": integrated,
        "integrated_label": functools.partial(integrated, differentiable=False),
        "adaptive": attractors.classifier_of,
    }
    told = {
        "told": defence.main_analyzer,
        "facts": told_facts(defence.main_analyzer),
    }
    served = functools.partial(classes_of, defence.trapped, output="scores")
    changes: dict[str, dict[str, Any]] = {
        "margin": {"loss": "margin"},
        **{name: {"integrated": True} for name in INTEGRATED},
        "rejecting": told,
        # M is what answers, whatever was attacked.
        "adaptive": {**told, "output": "logits", "asked": {"answer": served}},
    }
    watched = Subject(
        "paper",
        defence.trapped,
        examples,
        "scores",
        defence.bounds,
        detector=Watermark(defence.analyzers),
    )
    return [
        Subject(name, defence.classifier, examples, defence.output, defence.bounds)
        if name == "undefended"
        else dataclasses.replace(
            watched, name=name, view=views.get(name), **changes.get(name, {})
        )
        for name in names
    ]


def classes_of(
    model: keras.Model, images: FloatArray, output: AttackedOutput = "logits"
) -> IntArray:
    """Returns the classes that a model answers with, to images as it takes them."""
    return answers_of(predict(model, images), output).argmax(axis=1)


def luring_subjects(
    threat: Threat,
    variant: str,
    *,
    target: keras.Model,
    augmented: keras.Model,
    examples: Examples,
    weights: Mapping[str, str],
    surrogate: keras.Model | None = None,
    softness: Sequence[float] = SOFTNESS,
) -> list[Subject]:
    """Makes what an attacker of `THREATS` attacks; M and M∘P answer to its images.

    All models return logits, and take the pixels that M∘P takes. `variant` says how
    M∘P was made; `weights` are hashes of the weights of all models that the images
    depend on, by name. `"surrogate"` needs the attacker's own classifier, `"exchanged"`
    leaves out the last of an odd number of examples, and `"softened"` is one subject
    for each softness, of at least 1, of which the best counts.
    """
    if threat == "surrogate" and surrogate is None:
        raise ValueError(
            "Invalid value for argument `surrogate`. Expected a model. Received: None"
        )
    if threat == "softened" and min(softness) < 1:
        raise ValueError(
            "Invalid value for argument `softness`. Expected numbers of at least 1. "
            f"Received: {min(softness):g}"
        )
    if threat == "exchanged":
        examples = examples.take(slice(len(examples) // 2 * 2))
        if not len(examples):
            raise ValueError(
                "Invalid value for argument `examples`. Expected two or more, for they "
                "exchange their changes. Received: 1"
            )
    base = Subject(
        f"{threat}-{variant}",
        {"whitebox": target, "surrogate": surrogate}.get(threat) or augmented,
        examples,
        bounds=find_bounds(augmented),
        asked={
            "augmented": functools.partial(classes_of, augmented),
            "target": functools.partial(classes_of, target),
        },
        exchanged=threat == "exchanged",
        about={"threat": threat, "variant": variant},
        facts=weights,
        kept=0,
    )
    if threat != "softened":
        return [base]
    return [
        dataclasses.replace(
            base,
            view=functools.partial(softened, softness=each),
            choice={"softness": each},
        )
        for each in softness
    ]
