"""Rates from records: Section VI-F1 of the paper, and the worst case per image."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from keras_traps._checks import FloatArray
from keras_traps.attacks import Attack
from keras_traps.attractors import ForensicAnalyzer
from keras_traps.evaluation.paper import paper_row
from keras_traps.evaluation.records import Record
from keras_traps.evaluation.results import (
    INTEGRATED,
    AttackRow,
    DetectionRates,
    Variant,
    WorstCase,
)
from keras_traps.rates import Rate


def attack_row(
    attack: Attack,
    variant: Variant,
    record: Record,
    undefended: Record | None,
    analyzers: Mapping[float, ForensicAnalyzer],
    clean_scores: FloatArray,
    dataset: str,
) -> AttackRow:
    """Makes one row of a report.

    Args:
        attack: The attack.
        variant: How it saw the model.
        record: What it made of the candidates.
        undefended: What the same attack made of them on C, or `None`.
        analyzers: A fitted analyzer by nominal false-positive rate.
        clean_scores: `(candidates,)`: scores of the clean candidates, in the order of
            the record, by the analyzer of the largest rate.
        dataset: Its name, to look up the paper's numbers.

    Returns:
        The row.
    """
    success = record.succeeded(targeted=attack.targeted)
    integrated = variant in INTEGRATED
    detection = tuple(
        detection_rates(record, success, analyzer, fpr)
        for fpr, analyzer in analyzers.items()
    )
    # The integrated model is made with the analyzer of the largest rate.
    main = max(detection, key=lambda rates: rates.fpr)
    # That of `clean_scores`: one that was fitted on other images has another scale.
    scores = analyzers[max(analyzers)].judge(record.correlations).score
    return AttackRow(
        attack=attack.name,
        kind=attack.kind,
        variant=variant,
        settings=attack.settings(),
        note=attack.note,
        success_classifier=None
        if undefended is None
        else _rate(undefended.succeeded(targeted=attack.targeted)),
        success_trapped=_rate(success),
        detection=() if integrated else detection,
        auc=None if integrated else area_under_curve(scores, clean_scores, success),
        mean_l2=_mean_l2(record, attack),
        mean_l2_classifier=None if undefended is None else _mean_l2(undefended, attack),
        paper=paper_row(attack.name, dataset),
        unflagged=main.overall if integrated else None,
    )


def detection_rates(
    record: Record,
    success: npt.NDArray[np.bool_],
    analyzer: ForensicAnalyzer,
    fpr: float,
) -> DetectionRates:
    """Counts detection, recovery and overall success, columns (e) to (g) of Table I.

    Args:
        record: What an attack made of the candidates.
        success: `(candidates,)`: on which it succeeded.
        analyzer: A fitted analyzer.
        fpr: Its nominal false-positive rate.

    Returns:
        The three rates.
    """
    verdict = analyzer.judge(record.correlations)
    caught = success & verdict.is_adversarial
    recovered = caught & (verdict.recovered == record.labels)
    return DetectionRates(
        fpr=fpr,
        detected=Rate(int(caught.sum()), int(success.sum())),
        recovered=Rate(int(recovered.sum()), int(caught.sum())),
        overall=_rate(success & ~verdict.is_adversarial),
    )


def area_under_curve(
    attacked: FloatArray, clean: FloatArray, success: npt.NDArray[np.bool_]
) -> float | None:
    """Area under the ROC curve, as DEEPSEC takes it.

    Args:
        attacked: `(candidates,)`: scores of the attacked images.
        clean: `(candidates,)`: scores of the same images before the attack.
        success: `(candidates,)`: on which the attack succeeded; the others are left
            out on both sides.

    Returns:
        The area, or `None` where the attack never succeeded.
    """
    if not success.any():
        return None
    scores = np.concatenate([attacked[success], clean[success]])
    truth = np.repeat([1, 0], int(success.sum()))
    return float(roc_auc_score(truth, scores))


def worst_cases(
    records: Mapping[Variant, Sequence[Record]],
    analyzers: Mapping[float, ForensicAnalyzer],
) -> tuple[WorstCase, ...]:
    """Counts the images that at least one attack got through with, by variant.

    Args:
        records: By variant, one per attack.
        analyzers: A fitted analyzer by nominal false-positive rate.

    Returns:
        One for each variant; and, where several losses were taken on M itself, one for
        who tries them all.
    """
    found = [worst_case(name, each, analyzers) for name, each in records.items()]
    losses = [each for name, each in records.items() if name not in INTEGRATED]
    if len(losses) > 1:
        tried = [record for each in losses for record in each]
        found.append(worst_case("any_loss", tried, analyzers))
    return tuple(found)


def worst_case(
    variant: Variant | Literal["any_loss"],
    records: Sequence[Record],
    analyzers: Mapping[float, ForensicAnalyzer],
) -> WorstCase:
    """Counts the images that at least one attack got through with.

    Args:
        variant: How the attacks saw the model, or all that see M itself.
        records: One per attack, of the first candidates, not all equally many: what is
            counted are the images that every attack met.
        analyzers: A fitted analyzer by nominal false-positive rate.

    Returns:
        Misclassified by any attack, and misclassified by any without being flagged.
        In the integrated model flagging is part of the answer: both are the same, at
        the largest rate, which it is made with; it is not attacked at any other.
    """
    wrong = [record.misclassified for record in records]
    misclassified = _rate(_any(wrong))
    if variant in INTEGRATED:
        return WorstCase(variant, misclassified, {max(analyzers): misclassified})
    overall = {}
    for fpr, analyzer in analyzers.items():
        unseen = [
            missed & ~analyzer.judge(record.correlations).is_adversarial
            for record, missed in zip(records, wrong, strict=True)
        ]
        overall[fpr] = _rate(_any(unseen))
    return WorstCase(variant, misclassified, overall)


def _any(parts: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    """Joins by "or", as far as the shortest array goes."""
    shared = min(map(len, parts))
    return np.any([part[:shared] for part in parts], axis=0)


def _mean_l2(record: Record, attack: Attack) -> float | None:
    success = record.succeeded(targeted=attack.targeted)
    return float(record.l2[success].mean()) if success.any() else None


def _rate(successes: npt.NDArray[np.bool_]) -> Rate:
    return Rate(int(successes.sum()), len(successes))
