"""Tables V and VI of the attractor paper: the integrated model."""

from __future__ import annotations

import itertools
from typing import get_args

from keras_traps.evaluation.report.blocks import Cell, Paragraph, Section
from keras_traps.evaluation.report.formatting import (
    measure,
    paper_percent,
    rate_cell,
)
from keras_traps.evaluation.report.paper_parts import (
    names,
    paper_measure,
    rate_caption,
    section,
    table,
    tries,
    verdict,
)
from keras_traps.evaluation.report.tables import (
    PAPER_FPR,
    VARIANT_NAMES,
    asked_elsewhere,
    rows_of,
)
from keras_traps.evaluation.results import INTEGRATED, Evaluation, Variant
from keras_traps.evaluation.targets import Target

_UNFLAGGED = "and not flagged"
_UNBOUNDED = ("BLB", "CW2", "EAD")


def table_5(evaluation: Evaluation) -> Section:
    """Table V: attacks on the integrated model."""
    variants = _integrated(evaluation)
    first = {row.attack: row for row in reversed(rows_of(evaluation, *variants))}
    found = {(row.attack, row.variant): row for row in rows_of(evaluation, *variants)}
    rows = []
    for attack, row in reversed(first.items()):
        cells = [
            *names(row),
            rate_cell(row.success_classifier, paper_percent(row.paper, "asr_original")),
        ]
        for variant in variants:
            other = found.get((attack, variant))
            cells.append(
                rate_cell(
                    other.success_trapped if other else None,
                    paper_percent(row.paper, "asr_integrated"),
                )
            )
            cells.append(rate_cell(other.unflagged if other else None, ""))
        rows.append((*cells, tries(row)))
    pairs = [(VARIANT_NAMES[variant], _UNFLAGGED) for variant in variants]
    heads = ("fools C", *itertools.chain.from_iterable(pairs), "images")
    # The integrated model is made with the analyzer of the largest rate.
    fpr = max(evaluation.thresholds)
    verdicts = [
        paragraph
        for variant in (variants if fpr == PAPER_FPR else ())
        for paragraph in verdict(evaluation, variant, Target.INTEGRATED)
    ]
    return section(
        5,
        "Attacks on the integrated model",
        Paragraph(
            "The integrated model is attacked through its own gradients. The paper "
            "does not say what gradient the recovered answer has. The plain integrated "
            "model answers with the correlations, which have one. A hard answer, the "
            "class of lowest correlation or the largest of C - W, has none: an attack "
            "stands still where it is flagged. By depth, the class of lowest "
            "correlation where that is lower than small steps about a clean image "
            "reach, and else C's, has one that leads on into the trap. Both kinds "
            "mask the gradient that would lead out: the numbers are smaller, the model "
            "is no safer. Where an attack succeeds and the image is not flagged, M "
            "was fooled unnoticed; else the wrong class was recovered."
            + asked_elsewhere(evaluation)
        ),
        table(rate_caption(fpr), heads, rows),
        *verdicts,
    )


def table_6(evaluation: Evaluation) -> Section:
    """Table VI: the L2 distances of attacks without a ball."""
    variants = _integrated(evaluation)
    rows = []
    for attack in _UNBOUNDED:
        of_attack = {
            row.variant: row
            for row in rows_of(evaluation, *variants)
            if row.attack == attack
        }
        if not of_attack:
            continue
        first = next(iter(of_attack.values()))
        cells = [
            *names(first),
            Cell(
                measure(first.mean_l2_classifier, 2),
                paper=paper_measure(first, "mean_l2_original", 2),
            ),
        ]
        for variant in variants:
            other = of_attack.get(variant)
            cells.append(
                Cell(
                    measure(other.mean_l2 if other else None, 2),
                    count=f"{other.success_trapped.count} images" if other else "",
                    paper=paper_measure(first, "mean_l2_integrated", 2),
                )
            )
        rows.append((*cells, tries(first)))
    heads = ("C", *(VARIANT_NAMES[v] for v in variants), "images")
    return section(
        6,
        "Mean L2 distance of unbounded attacks",
        table(
            "Of the images on which the attack succeeded; pixels in [0, 1]. "
            + rate_caption(max(evaluation.thresholds)),
            heads,
            rows,
        ),
    )


def _integrated(evaluation: Evaluation) -> tuple[Variant, ...]:
    present = {row.variant for row in evaluation.rows}
    known: tuple[Variant, ...] = get_args(Variant)
    return tuple(v for v in known if v in INTEGRATED and v in present)
