"""One evaluation of attractors, from a defence to its findings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy.special import softmax

from keras_traps._checks import FloatArray, IntArray, check_distinct
from keras_traps.attacks import Attack
from keras_traps.attractors import CONDITIONS, Calibration, Verdict
from keras_traps.datasets import Dataset
from keras_traps.evaluation import metrics
from keras_traps.evaluation.metrics import clean_accuracy, rate_of
from keras_traps.evaluation.paper import look_up
from keras_traps.evaluation.records import RecordStore, Run
from keras_traps.evaluation.runner import EngineName, attack_all
from keras_traps.evaluation.subjects import (
    Defence,
    Examples,
    Variant,
    Watermark,
    attractor_subjects,
    choose_examples,
)
from keras_traps.evaluation.warnings import find_warnings
from keras_traps.models.forms import check_data, for_model
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import answers_of, check_outputs

OUTCOMES = {
    "caught": "Caught and recovered",
    "misread": "Caught, a wrong class recovered",
    "missed": "Missed",
    "clean": "Clean, and flagged by mistake",
}
"""What became of the images that a report shows."""

# Images of each outcome.
_SHOWN = 3
# How far M's largest output may lie from C's to mean the same.
_KEPT = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that one evaluation found."""

    dataset: str
    class_names: tuple[str, ...]
    provenance: dict[str, Any]  # in the order to show it
    # The traps' constants; `"explanation"` holds sentences.
    calibration: dict[str, Any]
    # By nominal false-positive rate, `U`, `L`, `sigma0`, `lead`.
    thresholds: dict[float, dict[str, float]]
    # Of clean test images: `clean_accuracy`, M's accuracy, how often its largest output
    # is C's, and the false positives by rate.
    clean: dict[str, Any]
    # See `make_frame`. Also `clean_score`, the score of the image before the attack,
    # and `lead`, by how much C's answer leads on it.
    frame: pd.DataFrame
    rows: list[dict[str, Any]]  # see `attack_rows`; also `paper`, the paper's numbers
    worst_cases: list[dict[str, Any]]
    warnings: list[str]
    unnoticed: list[dict[str, Any]]
    # W and C's logits by name, `(images, 2, classes)`: of the `"clean"` test images,
    # and by attack of those on which it succeeded; the analyzer's scores of the same.
    evidence: dict[str, FloatArray]
    clean_scores: FloatArray
    attacked_scores: dict[str, FloatArray]
    # A few images with what became of each.
    examples: list[dict[str, Any]]


def evaluate(
    defence: Defence,
    calibration: Calibration,
    test: Dataset,
    attacks: Sequence[Attack],
    store: RecordStore,
    *,
    provenance: Mapping[str, Any],
    background: FloatArray,
    num_examples: int = 1000,
    limits: Mapping[str, int] | None = None,
    variants: Sequence[Variant] = ("paper", "margin", "raw_sum", "integrated"),
    seed: int = 0,
    chunk_size: int = 250,
    engine: EngineName = "local",
) -> Evaluation:
    """Attacks a defence and says what came of it.

    The test images, of the classifier's shape and classes, are ones that neither the
    traps' constants nor the thresholds were chosen on. Each attack, no two of one name,
    meets C and every variant whose loss it follows; with no variants, clean images
    alone are looked at. The pictures are of `"paper"`, or of the first variant where
    that is not asked for. The background's pixels are in [0, 1]. The store has the
    `record_settings` of the defence, the background, the seed and the chunk size; what
    is not told here, errors too, is as in `attack_all`. With the same arguments the
    findings are the same, interrupted or not.
    """
    check_distinct("attacks", [attack.name for attack in attacks])
    if variants:
        check_distinct("variants", variants)
    if unknown := [name for name in variants if name not in get_args(Variant)]:
        raise ValueError(
            "Invalid value for argument `variants`. Expected of "
            f"{', '.join(get_args(Variant))}. Received: {unknown[0]!r}"
        )
    check_data(defence.classifier, test)
    images = for_model(defence.classifier, test.images, defence.bounds)
    outputs = predict(defence.classifier, images)
    check_outputs(outputs, defence.output)
    outputs = answers_of(outputs, defence.output)
    examples = choose_examples(
        test,
        [outputs],
        num_examples=num_examples,
        seed=seed,
        logits=logits_model(defence.classifier, defence.output),
        bounds=defence.bounds,
    )
    names = ["undefended", *variants] if variants else []
    subjects = attractor_subjects(defence, examples, names)
    found = attack_all(
        subjects,
        attacks,
        store,
        background=background,
        seed=seed,
        chunk_size=chunk_size,
        limits=limits,
        engine=engine,
        provenance=provenance,
    )
    places = [*names, *(attack.name for attack in attacks)]
    runs = sorted(
        found, key=lambda run: (places.index(run.subject), places.index(run.attack))
    )
    main = defence.main_analyzer
    evidence = main.evidence(images)
    verdict = main.judge(evidence)
    frame = metrics.make_frame(runs, store, Watermark(defence.analyzers))
    shares = softmax(outputs, 1) if defence.output == "logits" else outputs
    if runs:
        frame["clean_score"] = verdict.score[frame["id"]]
        # By how much C's answer leads: the largest probability less the second.
        ranked = np.sort(shares, axis=1)
        frame["lead"] = (ranked[:, -1] - ranked[:, -2])[frame["id"]]
    rows = metrics.attack_rows(frame, runs) if runs else []
    trapped = answers_of(predict(defence.trapped, images), "scores")
    known = look_up("attractors", "clean", test.name)
    attacked, shown = _samples(defence, examples, runs, store)
    wrong = np.flatnonzero(verdict.is_adversarial)[:_SHOWN]
    mistaken = _views(
        *(test.labels[wrong], trapped.argmax(axis=1)[wrong]),
        main.judge(evidence[wrong]),
        *(test.images[wrong], test.images[wrong]),
        attack="",
    )
    return Evaluation(
        dataset=test.name,
        class_names=test.class_names,
        provenance={**provenance, "images attacked": len(examples)},
        calibration={
            **calibration.settings.to_dict(),
            "changed_answers": calibration.changed_answers,
            "budget": calibration.budget,
            "explanation": " ".join(calibration.explanation),
        },
        thresholds={
            fpr: {
                "U": one.upper,
                "L": one.lower,
                "sigma0": one.deviation,
                "lead": one.lead,
            }
            for fpr, each in defence.analyzers.items()
            for one in [each.thresholds]
        },
        clean={
            **clean_accuracy(outputs.argmax(axis=1), test.labels, outputs.shape[1]),
            "accuracy_trapped": rate_of(trapped.argmax(axis=1) == test.labels),
            "scores_kept": rate_of(np.abs(trapped.max(1) - shares.max(1)) <= _KEPT),
            "false_positives": {
                fpr: rate_of(analyzer.judge(evidence).is_adversarial)
                for fpr, analyzer in defence.analyzers.items()
            },
            "paper_accuracy_classifier": known.get("original"),
            "paper_accuracy_trapped": known.get("attractors"),
        },
        frame=frame,
        rows=[
            {**row, "paper": look_up("attractors", "attacks", row["attack"], test.name)}
            for row in rows
        ],
        worst_cases=metrics.worst_cases(frame) if runs else [],
        warnings=find_warnings(frame),
        unnoticed=metrics.unnoticed(frame) if runs else [],
        evidence={"clean": evidence, **attacked},
        clean_scores=verdict.score,
        attacked_scores={
            name: main.judge(each).score for name, each in attacked.items()
        },
        examples=shown + mistaken,
    )


def _samples(
    defence: Defence, examples: Examples, runs: Sequence[Run], store: RecordStore
) -> tuple[dict[str, FloatArray], list[dict[str, Any]]]:
    """The evidence on images of each attack that succeeded; images of each outcome."""
    seen = [run.subject for run in runs if run.subject != "undefended"]
    subject = "paper" if "paper" in seen else "".join(seen[:1])
    evidence: dict[str, FloatArray] = {}
    shown: list[dict[str, Any]] = []
    for run in (run for run in runs if run.subject == subject):
        record = run.read(store)
        success = record.succeeded(targeted=run.kind == "TA")
        evidence[run.attack] = record["evidence"][success]
        count = len(record["kept"])
        views = _views(
            *(record["labels"][:count], record["answer"][:count]),
            defence.main_analyzer.judge(record["evidence"][:count]),
            *(examples.images[:count], record["kept"]),
            attack=run.attack,
        )
        for outcome in OUTCOMES:
            had = sum(view["outcome"] == outcome for view in shown)
            found = (
                view
                for view, hit in zip(views, success[:count], strict=True)
                if hit and view["outcome"] == outcome and had < _SHOWN
            )
            shown += itertools.islice(found, 1)
    return evidence, shown


def _views(
    labels: IntArray,
    answers: IntArray,
    verdict: Verdict,
    clean: FloatArray,
    shown: FloatArray,
    *,
    attack: str,
) -> list[dict[str, Any]]:
    """What became of images; of clean ones where the attack has no name."""
    views = []
    for row, (label, image) in enumerate(zip(labels, shown, strict=True)):
        flagged, recovered = bool(verdict.is_adversarial[row]), verdict.recovered[row]
        outcome = "missed" if not flagged else "caught"
        if flagged and recovered != label:
            outcome = "misread"
        views.append(
            {
                "outcome": outcome if attack else "clean",
                "attack": attack,
                "label": int(label),
                "predicted": int(answers[row]),
                "score": float(verdict.score[row]),
                "flagged": flagged,
                "fired": np.compress(verdict.fired[row], CONDITIONS).tolist(),
                "recovered": int(recovered),
                "clean": clean[row],
                "adversarial": image,
            }
        )
    return views
