"""What detectors see of attacked images, as in the attractor paper's Table III.

Attackers know of no detector: each attack is made once on every model, the images are
kept, and all detectors of that model look at them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_traps._checks import UNIT, Bounds, FloatArray, check_distinct
from keras_traps.attacks import Attack
from keras_traps.datasets import Dataset
from keras_traps.detectors import Detector
from keras_traps.evaluation import metrics
from keras_traps.evaluation.metrics import rate_of
from keras_traps.evaluation.paper import look_up_detector
from keras_traps.evaluation.records import Record, RecordStore, record_settings
from keras_traps.evaluation.runner import EngineName, attack_all
from keras_traps.evaluation.subjects import (
    Finding,
    Question,
    Subject,
    choose_examples,
    model_subject,
)
from keras_traps.models.forms import class_answers
from keras_traps.models.outputs import AttackedOutput
from keras_traps.provenance import (
    architecture_sha256,
    array_sha256,
    weights_sha256,
)

# What is told of each attack, of what `attack_rows` counts.
_TOLD = ("attack", "kind", "settings", "note", "success_trapped", "auc", "mean_l2")


@dataclasses.dataclass(frozen=True, eq=False)
class Watched:
    """A model that is attacked, and a detector that looks at what comes of it.

    Args:
        name: Of the detector, for the tables.
        kind: What the paper calls it: a name in `DETECTORS`, or `"Attractors"`.
        model: From images in `bounds` to `output`.
        detector: With thresholds that held-out images set.
        output: What the model returns. Defaults to `"logits"`.
        bounds: The least and the largest value of a pixel. Defaults to 0 and 1.
    """

    name: str
    kind: str
    model: keras.Model
    detector: Detector
    output: AttackedOutput = "logits"
    bounds: Bounds = UNIT


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What all detectors saw.

    Args:
        dataset: The data set.
        rows: One for each detector: `detector`, `kind`, `attacked` (detectors of the
            same model have the same name here), `accuracy` of that model and
            `false_positives` by nominal rate on all test images, `any`, the images
            that some attack got through with by rate, and `attacks`: `attack`, `kind`,
            `settings`, `note`, `success`, `auc`, `mean_l2`, by rate `detected` (of the
            images that met the attacker's goal) and `overall` (that met it and were
            not flagged, of all), and the `paper`'s numbers.
        provenance: What a reader needs to make it again.
    """

    dataset: str
    rows: list[dict[str, Any]]
    provenance: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Looking:
    """A detector that looks at the images of a record."""

    subject: Subject
    detector: Detector

    @property
    def asked(self) -> Mapping[str, Question]:
        """Nothing, when the images are made."""
        return {}

    def judge(self, record: Record) -> Finding:
        """Scores them, which the record has to have kept."""
        score = self.detector.score(self.subject.taken(record["kept"]))
        limit = self.detector.threshold
        return Finding(score, {f: score > limit(f) for f in self.detector.fprs})


def compare_detectors(
    watched: Sequence[Watched],
    attacks: Sequence[Attack],
    test: Dataset,
    *,
    workdir: str | Path,
    num_examples: int = 1000,
    limits: Mapping[str, int] | None = None,
    background: FloatArray | None = None,
    seed: int = 0,
    chunk_size: int = 250,
    engine: EngineName = "local",
    provenance: Mapping[str, Any] | None = None,
) -> Comparison:
    """Attacks every model that is watched once, and asks each detector.

    The images are the first that all models are right on; no threshold was set on the
    test images. Arguments and errors are else as in
    `keras_traps.evaluation.runner.attack_all`; an interrupted comparison goes on from
    `workdir`, and so does one with other detectors of the same models.
    """
    check_distinct("watched", [one.name for one in watched])
    answers = [
        class_answers(one.model, test.images, one.output, one.bounds) for one in watched
    ]
    examples = choose_examples(test, answers, num_examples=num_examples, seed=seed)
    settings = record_settings(
        test, seed=seed, chunk_size=chunk_size, background=background
    )
    # Other models may be right on other images.
    settings["examples"] = array_sha256(examples.ids)
    store = RecordStore(workdir, settings, resume=True)
    subjects: dict[tuple[str, ...], Subject] = {}
    for one in watched:
        made = model_subject(
            one.model, examples, name=one.name, output=one.output, bounds=one.bounds
        )
        kept = dataclasses.replace(made, kept=len(examples))
        subjects.setdefault(_place(one), kept)
    names = [attack.name for attack in attacks]
    runs = list(
        attack_all(
            list(subjects.values()),
            attacks,
            store,
            background=background,
            seed=seed,
            chunk_size=chunk_size,
            limits=limits,
            engine=engine,
            provenance=provenance,
        )
    )
    rows = []
    for one, outputs in zip(watched, answers, strict=True):
        subject = subjects[_place(one)]
        own = sorted(
            (run for run in runs if run.subject == subject.name),
            key=lambda run: names.index(run.attack),
        )
        frame = metrics.make_frame(own, store, _Looking(subject, one.detector))
        clean = one.detector.score(subject.taken(test.images))
        frame["clean_score"] = clean[frame["id"]]
        right = outputs.argmax(axis=1) == test.labels
        rows.append(
            {
                "detector": one.name,
                "kind": one.kind,
                "attacked": subject.name,
                "accuracy": rate_of(right),
                "false_positives": {
                    fpr: rate_of(clean > one.detector.threshold(fpr))
                    for fpr in one.detector.fprs
                },
                "any": metrics.worst_cases(frame)[0]["overall"],
                "attacks": [
                    _told(row, one.kind, test.name)
                    for row in metrics.attack_rows(frame, own)
                ],
            }
        )
    facts = {**(provenance or {}), "images attacked": len(examples)}
    return Comparison(test.name, rows, facts)


def _place(one: Watched) -> tuple[str, ...]:
    """Tells models apart by what they compute."""
    made = weights_sha256(one.model), architecture_sha256(one.model)
    return *made, one.output, str(one.bounds)


def _told(row: Mapping[str, Any], kind: str, dataset: str) -> dict[str, Any]:
    told = {name: row[name] for name in _TOLD}
    told["success"] = told.pop("success_trapped")
    for what in ("detected", "overall"):
        told[what] = {one["fpr"]: one[what] for one in row["detection"]}
    return {**told, "paper": look_up_detector(kind, row["attack"], dataset)}
