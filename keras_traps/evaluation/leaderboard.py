"""Whom a defence stops: all attacks on any classifiers, by what attackers know."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from keras_traps._checks import (
    UNIT,
    Bounds,
    FloatArray,
    check_distinct,
    check_images,
    check_labels,
)
from keras_traps.attacks import Attack
from keras_traps.detectors import Detector
from keras_traps.evaluation.metrics import fprs_of, make_frame, rate_of
from keras_traps.evaluation.records import RecordStore, Run
from keras_traps.evaluation.runner import EngineName, attack_all
from keras_traps.evaluation.subjects import (
    Clean,
    Examples,
    Scored,
    Subject,
    choose_examples,
    classes_of,
    told_facts,
)
from keras_traps.evaluation.warnings import find_flags
from keras_traps.models.forms import class_answers, find_bounds, for_model
from keras_traps.models.outputs import AttackedOutput
from keras_traps.provenance import (
    architecture_sha256,
    array_sha256,
    rounding_environment,
    weights_sha256,
)
from keras_traps.rates import Rate

Level = Literal["transfer", "labels", "scores", "gradients", "everything"]
"""What an attacker has, the least first.

A classifier of their own; the class that is answered, and whether an image is refused;
the model's outputs too; its gradient, and what can be rebuilt from that; or all: the
weights of what answers, and the detector's.
"""

LEVELS: tuple[Level, ...] = get_args(Level)

# Attackers whose images an image by another attacker counts for too: who has more can
# do what others can.
_RANK = {level: rank for rank, level in enumerate(LEVELS)}
# The share of clean images that a defender flags who can afford to ask a person.
_HALF = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
    """A classifier as it is served, with or without a detector.

    Args:
        name: Letters, digits, `_`, `-` and `.`.
        model: What attackers see: from images in `bounds` to `output`.
        output: What it returns; `"scores"` for a trapped model. Defaults to `"logits"`.
        bounds: The least and the largest value of a pixel. Defaults to `None`: those of
            a trapped model, else `(0.0, 1.0)`.
        detector: A fitted `keras_traps.detectors.Detector`. Attacks that ask are told
            what it flags at its largest rate. Defaults to `None`.
        answers: A classifier of logits that answers in the place of `model`, as where a
            lure stands before it. Defaults to `None`: `model`.
        known: A classifier of logits that those follow who know everything, such as
            `keras_traps.attractors.classifier_of(trapped)`. Defaults to `None`:
            `answers`, else `model`.
        substitutes: Classifiers of logits of attackers who have nothing else, by name.
            Defaults to none: nobody tries it.
        rebuilt: What an attacker makes of the model's gradient who knows how it is
            defended, such as `keras_traps.attractors.with_slope_of` and
            `RebuiltAnalyzer`: a model of logits, and a detector with a `tf_score`.
            Defaults to `None`: nobody tries it.
    """

    name: str
    model: keras.Model
    output: AttackedOutput = "logits"
    bounds: Bounds | None = None
    detector: Detector | None = None
    answers: keras.Model | None = None
    known: keras.Model | None = None
    substitutes: Mapping[str, keras.Model] = dataclasses.field(default_factory=dict)
    rebuilt: tuple[keras.Model, Detector] | None = None

    @functools.cached_property
    def _range(self) -> Bounds:
        """The least and the largest value of a pixel."""
        return find_bounds(self.model, self.bounds)

    def _outputs(self, images: FloatArray) -> FloatArray:
        """Returns what answers to images in [0, 1]."""
        output = self.output if self.answers is None else "logits"
        return class_answers(self.answers or self.model, images, output, self._range)

    def _scores(self, images: FloatArray) -> FloatArray | None:
        """Returns the detector's scores of images in [0, 1], where there is one."""
        if self.detector is None:
            return None
        return self.detector.score(for_model(self.model, images, self._range))

    def _views(self) -> Iterator[_View]:
        """Lists what attackers of each level attack."""
        served, watching = self.answers or self.model, self.detector
        own, known = (self.model, self.output), self.known or served
        yield _View("blind", *own)
        yield _View("told", *own, told=watching)
        output = self.output if known is self.model else "logits"
        yield _View("known", known, output, told=watching, level="everything")
        for name, substitute in self.substitutes.items():
            view = _View("transfer", substitute, level="transfer")
            yield view._replace(label=f"{{}} from {name}", place=f"transfer-{name}")
        if self.rebuilt is not None:
            model, detector = self.rebuilt
            view = _View("rebuilt", model, told=detector, level="gradients")
            yield view._replace(label="extraction, {}")

    def _subject(self, view: _View, examples: Examples) -> Subject:
        """Makes what is attacked; what is served answers."""
        served = self.answers or self.model
        output = self.output if self.answers is None else "logits"
        facts: dict[str, Any] = {
            name: [weights_sha256(one), architecture_sha256(one)]
            for name, one in (("attacked", view.model), ("served", served))
        }
        if (told := view.told or self.detector) is not None:
            facts |= told_facts(told)
        return Subject(
            f"{self.name}.{view.place or view.kind}",
            view.model,
            examples,
            view.output,
            self._range,
            asked={"answer": functools.partial(classes_of, served, output=output)},
            detector=None if self.detector is None else Scored(self.detector),
            told=view.told,
            about={"contender": self.name, "view": view.kind},
            facts=facts,
            kept=0,
        )

    def _meets(self, attack: Attack, view: _View, subject: Subject) -> bool:
        """Says whether an attack has a use for a view."""
        if not subject.follows(attack):
            return False
        asks = attack.knowledge in ("labels", "scores")
        match view.kind:
            case "blind":
                # Those that ask hear of rejections.
                return not (asks and self.detector and attack.takes_detector)
            case "told":
                return asks and self.detector is not None
            case "known":
                # Without any of these it is what all attackers see.
                more = self.detector, self.known, self.answers
                return not asks and any(one is not None for one in more)
        return not asks


class _View(NamedTuple):
    """What some attackers see of a contender."""

    kind: Literal["blind", "told", "known", "transfer", "rebuilt"]
    model: keras.Model
    output: AttackedOutput = "logits"
    told: Detector | None = None
    level: Level | None = None  # `None`: by what each attack knows
    label: str = "{}"  # what an attack is called here
    place: str = ""  # where its records are, if not at its kind


@dataclasses.dataclass(frozen=True, eq=False)
class Leaderboard:
    """What an evaluation of several contenders found.

    Args:
        rows: One for each contender: `contender`, `accuracy` and by nominal rate
            `false_positives` on all images; `levels`, in the largest ball: by level
            `any`, the share of images that some attacker of that level or of a lower
            one gets through with, by rate, `fooled`, where the answer alone is wrong,
            and `half`, at 50 % false positives; `worst`, the attack that gets furthest,
            with how far; and `implied`, see `implied_accuracy`; and `flags`, sentences
            about what an expert would question.
        attacks: One for each attack on each contender: `contender`, `level`, `attack`,
            `eps`, `fooled` (answered wrongly), `through` by rate (and not flagged),
            `half`, `images`, and of those that ask the median `queries` and the mean
            `rejections`.
        frame: A row for each image of each of these; see
            `keras_traps.evaluation.metrics.make_frame`.
        provenance: What a reader needs to make it again.
    """

    rows: list[dict[str, Any]]
    attacks: list[dict[str, Any]]
    frame: pd.DataFrame
    provenance: dict[str, Any]


def evaluate(
    contenders: Sequence[Contender],
    attacks: Sequence[Attack],
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    workdir: str | Path,
    num_examples: int = 1000,
    limits: Mapping[str, int] | None = None,
    background: FloatArray | None = None,
    seed: int = 0,
    chunk_size: int = 250,
    engine: EngineName = "local",
    provenance: Mapping[str, Any] | None = None,
) -> Leaderboard:
    """Attacks classifiers, with and without detectors, by all that attackers may know.

    Each attack meets each contender as its `knowledge` says. Those that only ask are
    told of rejections; those that follow a gradient follow the model's, and the
    substitute's; those that evade a detector follow what answers and the detector.
    Where there is no detector, but something else that answers or is known, those that
    follow a gradient follow that too. What an attacker has rebuilt counts as knowledge
    of gradients. What counts is what answers to the image that is
    made, and whether it is flagged. The examples are the first images that all
    contenders are right on.

    Args:
        contenders: What is evaluated, no two of one name, all of images of one shape.
        attacks: The attacks, no two of one name and radius.
        images: `(images, height, width, channels)`, in [0, 1], clean, which no
            contender and no threshold was fitted to.
        labels: `(images,)`, integers.
        workdir: Where records are kept. An interrupted evaluation goes on from there.
        num_examples: How many images are attacked at most. Defaults to `1000`.
        limits: How many an attack meets at most, by its name. Defaults to all.
        background: Images without labels, in [0, 1], that a universal attack learns
            from. Defaults to the examples.
        seed: Seed of all randomness. Defaults to `0`.
        chunk_size: How many images are recorded together. Defaults to `250`.
        engine: Where the attacks run. Defaults to `"local"`: in this process.
        provenance: What else a reader needs to make it again.

    Returns:
        The findings; `keras_traps.evaluation.report.write_leaderboard` writes a page.

    Raises:
        ValueError: If an argument is out of its range, no image is answered rightly by
            all, or the records in `workdir` are of other images or settings.
        OSError: If nothing can be written there.
    """
    limits = limits or {}
    _check(contenders, attacks, limits)
    shape = contenders[0].model.input_shape[1:]
    clean = check_images(images, shape, bounds=UNIT)
    classes = len(contenders[0]._outputs(clean[:1])[0])
    true = check_labels(labels, len(clean), classes, name="labels")
    outputs = [contender._outputs(clean) for contender in contenders]
    examples = choose_examples(
        Clean(clean, true), outputs, num_examples=num_examples, seed=seed
    )
    settings = {
        "images": array_sha256(clean),
        # Other contenders may be right on other images.
        "examples": array_sha256(examples.ids),
        "labels": array_sha256(true),
        "seed": seed,
        "chunk_size": chunk_size,
        **rounding_environment(),
    }
    if background is not None:
        settings["background"] = array_sha256(background)
    run = functools.partial(
        attack_all,
        store=RecordStore(workdir, settings, resume=True),
        background=background,
        seed=seed,
        chunk_size=chunk_size,
        engine=engine,
        provenance=provenance,
    )
    parts = [
        part
        for contender in contenders
        for part in _attacked(contender, attacks, examples, limits, run)
    ]
    if not parts:
        raise ValueError(
            "Invalid value for argument `attacks`. Expected one that a contender can "
            "meet; some need a detector. Received: "
            f"{', '.join(sorted({attack.name for attack in attacks}))}"
        )
    scores = {c.name: s for c in contenders if (s := c._scores(clean)) is not None}
    frame = _passing(pd.concat(parts, ignore_index=True), scores)
    right = [rate_of(answers.argmax(axis=1) == true) for answers in outputs]
    return Leaderboard(
        rows=[
            _row(contender, frame, accuracy, scores.get(contender.name))
            for contender, accuracy in zip(contenders, right, strict=True)
        ],
        attacks=_attacks(frame),
        frame=frame,
        provenance={
            **(provenance or {}),
            **{name: value for name, value in settings.items() if name != "seed"},
            "seed": seed,
            "images attacked": len(examples),
            "models": {c.name: weights_sha256(c.model) for c in contenders},
        },
    )


def _check(
    contenders: Sequence[Contender],
    attacks: Sequence[Attack],
    limits: Mapping[str, int],
) -> None:
    """Refuses what cannot be evaluated."""
    check_distinct("contenders", [contender.name for contender in contenders])
    if not contenders or not attacks:
        raise ValueError(
            "Invalid value for argument `contenders`. Expected at least one, and an "
            f"attack. Received: {len(contenders)} and {len(attacks)}"
        )
    known = {attack.name for attack in attacks}
    if unknown := [name for name in limits if name not in known]:
        raise ValueError(
            f"Invalid value for argument `limits`. Expected of {', '.join(known)}. "
            f"Received: {', '.join(unknown)}"
        )


def _attacked(
    contender: Contender,
    attacks: Sequence[Attack],
    examples: Examples,
    limits: Mapping[str, int],
    run: functools.partial[Iterator[Run]],
) -> Iterator[pd.DataFrame]:
    """Attacks one contender; for each view a part of the frame."""
    for view in contender._views():
        subject = contender._subject(view, examples)
        chosen = [one for one in attacks if contender._meets(one, view, subject)]
        if not chosen:
            continue
        names = {one.name for one in chosen}
        own = {name: limits[name] for name in names & {*limits}}
        store = run.keywords["store"]
        part = make_frame(run([subject], chosen, limits=own), store, subject.detector)
        part["level"] = view.level or part["knowledge"]
        part["attack"] = part["attack"].map(view.label.format)
        yield part


def _passing(frame: pd.DataFrame, scores: Mapping[str, FloatArray]) -> pd.DataFrame:
    """Adds what gets through: at each rate, and where half of what is clean is flagged.

    `scores` are those of clean images, of the contenders that are watched.
    """
    for name in (one for one in frame.columns if one.startswith("through_")):
        # Of contenders that nothing watches, all that is wrong gets through.
        frame[name] = frame[name].where(frame[name].notna(), frame["misclassified"])
        frame[name] = frame[name].astype(bool)
    frame["through_half"] = frame["misclassified"]
    for name, own in scores.items():
        watched = frame["contender"] == name
        if watched.any():
            above = frame["score"] > np.quantile(own, _HALF)
            frame["through_half"] &= ~(watched & above)
    return frame


def _row(
    contender: Contender,
    frame: pd.DataFrame,
    accuracy: Rate,
    scores: FloatArray | None,
) -> dict[str, Any]:
    """Returns what all attacks on one contender found together."""
    own = frame[frame["contender"] == contender.name]
    return {
        "contender": contender.name,
        "accuracy": accuracy,
        "false_positives": _false_positives(contender.detector, scores),
        "levels": _levels(own, accuracy),
        # What is rebuilt has a slope of its own, whatever the model's is.
        "flags": find_flags(own[own["view"] != "rebuilt"]),
    }


def implied_accuracy(through: Rate, accuracy: Rate) -> float:
    """Returns the robust accuracy that a classifier without a detector would have.

    Args:
        through: The share of images that some attack within eps gets through with.
        accuracy: The share of clean images that is answered rightly.

    Returns:
        What a classifier made of the detector, at great cost, would reach within
        eps / 2, if no attack were stronger. Far above what adversarial training
        reaches, it says that the attacks are weak.

    Reference:
        Tramer, Detecting Adversarial Examples Is (Nearly) As Hard As Classifying Them,
        2022, theorem 4.
    """
    return (accuracy.value or 0.0) * (1 - (through.value or 0.0))


def _false_positives(
    detector: Detector | None, scores: FloatArray | None
) -> dict[float, Rate]:
    if detector is None or scores is None:
        return {}
    return {fpr: rate_of(scores > detector.threshold(fpr)) for fpr in detector.fprs}


def _through(frame: pd.DataFrame) -> dict[float | str, str]:
    return {fpr: f"through_{fpr:g}" for fpr in fprs_of(frame)}


def _levels(frame: pd.DataFrame, accuracy: Rate) -> dict[str, Any]:
    """Counts by level what some attack gets through with, in the largest ball."""
    frame = frame[frame["eps"].isin([0.0, frame["eps"].max()])]
    columns = _through(frame)
    columns |= {"fooled": "misclassified", "half": "through_half"}
    main = next(iter(columns.values()))
    found: dict[str, Any] = {}
    for level in LEVELS:
        own = frame[frame["level"] == level]
        if own.empty:
            continue
        up_to = frame[frame["level"].map(_RANK) <= _RANK[level]]
        by_image = up_to.groupby("id")
        # Only images that all of these attacks met.
        met = by_image.size() == up_to.groupby(["subject", "attack"]).ngroups
        lost = {
            str(name): rate_of(by_image[column].any()[met])
            for name, column in columns.items()
        }
        rates = own.groupby("attack")[main].mean()
        found[level] = {
            "any": lost,
            "worst": {"attack": rates.idxmax(), "through": float(rates.max())},
            "implied": implied_accuracy(next(iter(lost.values())), accuracy),
        }
    return found


def _attacks(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    keys = ["contender", "level", "attack", "eps"]
    for key, part in frame.groupby(keys, sort=False):
        watched = "score" in part and part["score"].notna().any()
        asks = part["knowledge"].iloc[0] in ("labels", "scores")
        rejections = part.get("rejections")
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "fooled": rate_of(part["misclassified"]),
                "through": {
                    fpr: rate_of(part[name]) for fpr, name in _through(part).items()
                }
                if watched
                else {},
                "half": rate_of(part["through_half"]) if watched else None,
                "images": len(part),
                "queries": float(part["iterations"].median()) if asks else None,
                "rejections": float(rejections.mean())
                if asks and watched and rejections is not None
                else None,
            }
        )
    order = {level: rank for rank, level in enumerate(reversed(LEVELS))}
    return sorted(rows, key=lambda row: (row["contender"], order[row["level"]]))
