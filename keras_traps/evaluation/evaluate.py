"""One evaluation from a defence to its findings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, check_count, check_distinct
from keras_traps.attacks import Attack
from keras_traps.attractors import CONDITIONS, Calibration
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import Candidates, choose_candidates
from keras_traps.evaluation.clean import clean_results
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.engines import Engine, LocalEngine
from keras_traps.evaluation.jobs import KEPT_PER_TASK, Job, Subject
from keras_traps.evaluation.kept_calibration import (
    check_calibration,
    keep_calibration,
)
from keras_traps.evaluation.metrics import attack_row, worst_cases
from keras_traps.evaluation.protocol import (
    attack_all,
    record_settings,
)
from keras_traps.evaluation.records import Record, RecordStore
from keras_traps.evaluation.results import (
    INTEGRATED,
    Evaluation,
    Example,
    Samples,
    Unnoticed,
    Variant,
)
from keras_traps.evaluation.suspicions import suspicions
from keras_traps.evaluation.unnoticed import confidence, unnoticed
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import check_outputs

_EXAMPLES = 6

# The paper's Tables I, V and VI show these beside the attack on C.
_BESIDE_C = ("paper", *INTEGRATED)


def evaluate(
    defence: Defence,
    calibration: Calibration,
    test: Dataset,
    attacks: Sequence[Attack],
    *,
    workdir: str | Path,
    provenance: Mapping[str, Any],
    background: npt.NDArray[np.float32],
    num_examples: int = 1000,
    limits: Mapping[str, int] | None = None,
    variants: Sequence[Variant] = ("paper", "margin", "raw_sum", "integrated"),
    seed: int = 0,
    chunk_size: int = 250,
    resume: bool = False,
    engine: Callable[[Job], Engine] = LocalEngine,
) -> Evaluation:
    """Attacks a defence and says what came of it.

    Args:
        defence: The classifier with its traps.
        calibration: How the traps' constants were chosen.
        test: Clean test images that neither the constants nor the thresholds were
            chosen on.
        attacks: The attacks, each on C and on every variant; no two of one name.
        workdir: Where the records are kept, and `calibration.json` beside them.
        provenance: What a reader needs to run it again.
        background: `(images, ...)`: training images, without labels, for attacks that
            learn from many.
        num_examples: How many images to attack at most. Defaults to `1000`.
        limits: How many images an attack meets at most, by its name, where that is
            fewer. Defaults to none.
        variants: How the trapped model is seen, each once; with none, nothing is
            attacked and clean images alone are looked at. The pictures are of
            `"paper"`, or of the first where that is not asked for. Defaults to the
            first four.
        seed: Seed of targets and attacks. Defaults to `0`.
        chunk_size: How many images are attacked at once. Defaults to `250`.
        resume: Whether to go on from records in `workdir`. Defaults to `False`.
        engine: Where the attacks are run. Defaults to this process.

    Returns:
        The findings. With the same arguments they are the same, interrupted or not.

    Raises:
        ValueError: If an argument is out of its range, the classifier's outputs are
            not what was declared, or the records or the calibration in `workdir` do
            not fit.
        FileExistsError: If `workdir` holds records and `resume` is false.
        OSError: If `workdir` cannot be written to.
    """
    check_distinct("attacks", [attack.name for attack in attacks])
    if variants:
        check_distinct("variants", variants)
    check_count("chunk_size", chunk_size)
    _check_limits(limits or {}, attacks)
    settings = record_settings(
        defence, test, background, seed=seed, chunk_size=chunk_size
    )
    outputs = predict(defence.classifier, test.images)
    check_outputs(outputs, defence.output)
    candidates = choose_candidates(
        outputs,
        test,
        num_examples=num_examples,
        seed=seed,
        logits=logits_model(defence.classifier, defence.output),
    )
    check_calibration(calibration, workdir)
    store = RecordStore(workdir, settings, resume=resume)
    keep_calibration(calibration, workdir)
    records = attack_all(
        engine(Job(defence, candidates, background, seed)),
        attacks,
        store,
        subjects=("undefended", *variants) if variants else (),
        limits=limits,
        chunk_size=chunk_size,
    )

    clean = defence.main_analyzer.correlations(test.images)
    clean_scores = defence.main_analyzer.judge(clean).score
    rows = tuple(
        attack_row(
            attack,
            variant,
            records[variant][attack.name],
            records["undefended"][attack.name] if variant in _BESIDE_C else None,
            defence.analyzers,
            clean_scores[records[variant][attack.name].ids],
            test.name,
        )
        for variant in variants
        for attack in attacks
    )
    return Evaluation(
        title=f"Attractors on {test.name}",
        dataset=test.name,
        class_names=test.class_names,
        provenance={**provenance, "images attacked": len(candidates.ids)},
        calibration={
            **calibration.settings.to_dict(),
            "changed_answers": calibration.changed_answers,
            "budget": calibration.budget,
            "explanation": " ".join(calibration.explanation),
        },
        thresholds={
            fpr: {
                "U": analyzer.thresholds.upper,
                "L": analyzer.thresholds.lower,
                "sigma0": analyzer.thresholds.deviation,
            }
            for fpr, analyzer in defence.analyzers.items()
        },
        clean=clean_results(defence, test, outputs, clean),
        rows=rows,
        worst_cases=worst_cases(
            {variant: list(records[variant].values()) for variant in variants},
            defence.analyzers,
        ),
        warnings=suspicions(rows, records, defence.analyzers),
        samples=_samples(
            defence, candidates, attacks, records, clean, clean_scores, chunk_size
        ),
        unnoticed=_unnoticed(
            defence, attacks, records, confidence(outputs, defence.output)
        ),
    )


def _unnoticed(
    defence: Defence,
    attacks: Sequence[Attack],
    records: Mapping[Subject, Mapping[str, Record]],
    lead: FloatArray,
) -> tuple[Unnoticed, ...]:
    found = (
        unnoticed(attack, record, defence.analyzers, lead[record.ids])
        for attack in attacks
        if (record := records.get("paper", {}).get(attack.name)) is not None
    )
    return tuple(one for one in found if one is not None)


def _check_limits(limits: Mapping[str, int], attacks: Sequence[Attack]) -> None:
    known = [attack.name for attack in attacks]
    for name, limit in limits.items():
        if name not in known:
            raise ValueError(
                "Invalid value for argument `limits`. Expected names of the attacks, "
                f"{', '.join(known)}. Received: {name!r}"
            )
        check_count(f"limits[{name!r}]", limit)


def _samples(
    defence: Defence,
    candidates: Candidates,
    attacks: Sequence[Attack],
    records: Mapping[Subject, Mapping[str, Record]],
    clean: FloatArray,
    clean_scores: FloatArray,
    chunk_size: int,
) -> Samples:
    analyzer = defence.main_analyzer
    correlations: dict[str, FloatArray] = {}
    examples: list[Example] = []
    # The second subject is the first variant; the first one is C.
    seen = "paper" if "paper" in records else next(iter([*records][1:]), None)
    for attack in attacks if seen else ():
        record = records[cast(Subject, seen)][attack.name]
        success = record.succeeded(targeted=attack.targeted)
        correlations[attack.name] = record.correlations[success]
        if len(examples) < _EXAMPLES:
            examples.append(
                _example(defence, candidates, attack, record, success, chunk_size)
            )
    return Samples(
        clean_correlations=clean,
        clean_scores=clean_scores,
        attacked_correlations=correlations,
        attacked_scores={
            name: analyzer.judge(w).score for name, w in correlations.items()
        },
        examples=tuple(examples),
    )


def _example(
    defence: Defence,
    candidates: Candidates,
    attack: Attack,
    record: Record,
    success: npt.NDArray[np.bool_],
    chunk_size: int,
) -> Example:
    """The first kept image on which the attack succeeded, else the first at all."""
    kept = range(min(KEPT_PER_TASK, chunk_size, len(record.ids)))
    row = int(next((index for index in kept if success[index]), 0))
    verdict = defence.main_analyzer.judge(record.correlations[row : row + 1])
    return Example(
        attack=attack.name,
        clean=candidates.images[row],
        adversarial=record.kept[row],
        label=int(record.labels[row]),
        predicted=int(record.answers[row]),
        score=float(verdict.score[0]),
        flagged=bool(verdict.is_adversarial[0]),
        fired=tuple(
            name
            for name, fired in zip(CONDITIONS, verdict.fired[0], strict=True)
            if fired
        ),
        recovered=int(verdict.recovered[0]),
    )
