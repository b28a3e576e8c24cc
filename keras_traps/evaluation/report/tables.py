"""Turns an evaluation into the tables of its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from keras_traps.evaluation.report.blocks import Cell, Column, Table
from keras_traps.evaluation.report.formatting import (
    NOT_APPLICABLE,
    NOTHING,
    interval,
    measure,
    nominal,
    paper_percent,
    percent,
    rate_cell,
)
from keras_traps.evaluation.results import (
    AttackRow,
    DetectionRates,
    Evaluation,
    Variant,
)
from keras_traps.rates import Rate

VARIANT_NAMES: dict[Variant, str] = {
    "paper": "published loss",
    "margin": "margin loss",
    "raw_sum": "before normalisation",
    "integrated": "integrated model",
    "integrated_label": "integrated, hard label",
    "integrated_difference": "integrated, C - W",
    "integrated_depth": "integrated, by depth",
}
"""What the report calls a variant."""

PAPER_FPR = 0.05
"""The false-positive rate of the paper's tables, but for a part of Table IV."""

_PAPER_OVERALL = {0.05: "overall_asr", 0.005: "overall_asr_fpr0.5"}


def rows_of(evaluation: Evaluation, *variants: Variant) -> list[AttackRow]:
    """Returns the rows of some variants, in the evaluation's order."""
    return [row for row in evaluation.rows if row.variant in variants]


def nominal_rates(evaluation: Evaluation) -> list[float]:
    """Returns every nominal false-positive rate that occurs, the largest first."""
    rates = {*evaluation.thresholds, *evaluation.clean.false_positives}
    rates.update(entry.fpr for row in evaluation.rows for entry in row.detection)
    for worst in evaluation.worst_cases:
        rates.update(worst.overall)
    return sorted(rates, reverse=True)


def detection_at(row: AttackRow, fpr: float) -> DetectionRates | None:
    """Returns what a row found at one nominal false-positive rate, if it has it."""
    return next((entry for entry in row.detection if entry.fpr == fpr), None)


def clean_table(evaluation: Evaluation) -> Table:
    """Clean accuracy and false positives, with counts and intervals."""
    clean = evaluation.clean
    rows = [
        _counted(
            "Accuracy of C",
            clean.accuracy_classifier,
            _known(clean.paper_accuracy_classifier),
        ),
        _counted(
            "Accuracy of M",
            clean.accuracy_trapped,
            _known(clean.paper_accuracy_trapped),
        ),
    ]
    if clean.recovery_classifier is not None:
        name = "Recovery classifier right where C is"
        rows.append(_counted(name, clean.recovery_classifier, ""))
    rows += [
        _counted(f"False positives at nominal {nominal(fpr)}", rate, nominal(fpr)[:-2])
        for fpr, rate in sorted(clean.false_positives.items(), reverse=True)
    ]
    return Table(
        "Clean test images; rates in per cent. For false positives the expected "
        "number is the nominal rate, which was set on other clean images.",
        (
            Column("Quantity", numeric=False),
            Column("Measured"),
            Column("95 % interval"),
            Column("Images"),
            Column("Paper, or expected"),
        ),
        tuple(rows),
    )


def attack_table(evaluation: Evaluation) -> Table:
    """The main table: every attack with the paper's loss, like its Tables I and IV."""
    rates = nominal_rates(evaluation)
    columns = [
        Column("Attack", numeric=False),
        Column("Kind", numeric=False),
        Column("fools C"),
        Column("fools M"),
    ]
    for fpr in rates:
        group = f"Analyzer at {nominal(fpr)} FPR"
        columns += [
            Column(name, group) for name in ("detected", "recovered", "unnoticed")
        ]
    columns.append(Column("AUC"))
    rows = []
    for row in rows_of(evaluation, "paper"):
        cells = [
            Cell(row.attack, paper="paper"),
            Cell(row.kind, paper=""),
            rate_cell(row.success_classifier, paper_percent(row.paper, "asr_original")),
            rate_cell(row.success_trapped, paper_percent(row.paper, "asr_attractors")),
        ]
        for fpr in rates:
            cells += _detection_cells(row, fpr)
        cells.append(Cell(measure(row.auc, 3), paper=""))
        rows.append(_without_empty_paper(cells, row.paper))
    return Table(
        f"Attacks with the published loss, {_tries(evaluation)}; rates in per cent, "
        f"with 95 % intervals.{_papers_lines(rows)}",
        tuple(columns),
        tuple(rows),
    )


def asked_elsewhere(evaluation: Evaluation) -> str:
    """Says that another classifier than C is asked for a class, where it is so."""
    if evaluation.clean.recovery_classifier is None:
        return ""
    return (
        " Where C's answer counts for a recovered class, another classifier's counts "
        "here in its place."
    )


def integrated_table(evaluation: Evaluation, variant: Variant = "integrated") -> Table:
    """An integrated model under every attack, like the paper's Table V."""
    seen = {
        (row.attack, str(row.settings)): row for row in rows_of(evaluation, "paper")
    }
    rows = []
    for row in rows_of(evaluation, variant):
        classifier = row.success_classifier
        if classifier is None and (row.attack, str(row.settings)) in seen:
            classifier = seen[row.attack, str(row.settings)].success_classifier
        cells = [
            Cell(row.attack, paper="paper"),
            Cell(row.kind, paper=""),
            rate_cell(classifier, paper_percent(row.paper, "asr_original")),
            rate_cell(
                row.success_trapped,
                paper_percent(row.paper, "asr_integrated"),
                tint=True,
                open_interval=True,
            ),
            Cell(measure(row.mean_l2, 2), paper=""),
        ]
        rows.append(_without_empty_paper(cells, row.paper))
    return Table(
        f"Attacks on the {_as_model(variant)}; rates in per cent, with 95 % "
        f"intervals.{asked_elsewhere(evaluation)}{_papers_lines(rows)}",
        (
            Column("Attack", numeric=False),
            Column("Kind", numeric=False),
            Column("fools C"),
            Column(f"fools the {_as_model(variant)}"),
            Column("mean L2 distance"),
        ),
        tuple(rows),
    )


def _as_model(variant: Variant) -> str:
    _, _, recovery = VARIANT_NAMES[variant].partition(", ")
    return "integrated model" + (f" ({recovery})" if recovery else "")


def loss_table(evaluation: Evaluation) -> Table | None:
    """The same attacks with other losses, or `None` where none was run."""
    alternatives: tuple[Variant, ...] = ("margin", "raw_sum")
    present = [v for v in alternatives if rows_of(evaluation, v)]
    if not present:
        return None
    variants: list[Variant] = ["paper", *present]
    rates = nominal_rates(evaluation)
    columns = [Column("Attack", numeric=False)]
    groups = ["fools M", *(f"unnoticed at {nominal(fpr)} FPR" for fpr in rates)]
    columns += [Column(VARIANT_NAMES[v], group) for group in groups for v in variants]
    found = {(row.attack, row.variant): row for row in rows_of(evaluation, *variants)}
    names = dict.fromkeys(row.attack for row in rows_of(evaluation, *present))
    rows = []
    for name in names:
        of_attack = [found.get((name, variant)) for variant in variants]
        cells = [Cell(name)]
        cells += [rate_cell(row.success_trapped if row else None) for row in of_attack]
        for fpr in rates:
            for row in of_attack:
                entry = detection_at(row, fpr) if row else None
                cells.append(rate_cell(entry.overall if entry else None, tint=True))
        rows.append(tuple(cells))
    return Table(
        "The same attacks with other losses; rates in per cent.",
        tuple(columns),
        tuple(rows),
    )


def worst_case_table(evaluation: Evaluation) -> Table:
    """Per image, the worst over all attacks of a variant."""
    rates = nominal_rates(evaluation)
    rows = []
    for worst in evaluation.worst_cases:
        cells = [
            Cell(
                "any of these losses"
                if worst.variant == "any_loss"
                else VARIANT_NAMES[worst.variant]
            ),
            rate_cell(worst.misclassified, open_interval=True),
        ]
        cells += [
            rate_cell(worst.overall.get(fpr), tint=True, open_interval=True)
            for fpr in rates
        ]
        rows.append(tuple(cells))
    group = "some attack fools M unnoticed"
    return Table(
        "Share of images, in per cent, for which at least one attack got through.",
        (
            Column("Attacks", numeric=False),
            Column("some attack fools the model"),
            *(Column(f"{nominal(fpr)} FPR", group) for fpr in rates),
        ),
        tuple(rows),
    )


def _detection_cells(row: AttackRow, fpr: float) -> list[Cell]:
    entry = detection_at(row, fpr)
    is_paper_rate = fpr == PAPER_FPR
    expected = [
        paper_percent(row.paper, "detection") if is_paper_rate else NOTHING,
        paper_percent(row.paper, "recovery") if is_paper_rate else NOTHING,
        paper_percent(row.paper, _PAPER_OVERALL.get(fpr, "")),
    ]
    found = (entry.detected, entry.recovered, entry.overall) if entry else (None,) * 3
    return [
        rate_cell(rate, paper, tint=position == 2, open_interval=position == 2)
        for position, (rate, paper) in enumerate(zip(found, expected, strict=True))
    ]


def _without_empty_paper(
    cells: Iterable[Cell], paper: Mapping[str, float | None]
) -> tuple[Cell, ...]:
    if paper:
        return tuple(cells)
    return tuple(dataclasses.replace(cell, paper=None) for cell in cells)


def _tries(evaluation: Evaluation) -> str:
    totals = sorted({row.success_trapped.total for row in rows_of(evaluation, "paper")})
    if len(totals) == 1:
        return f"{totals[0]:,} tries each"
    return f"{totals[0]:,} to {totals[-1]:,} tries"


def _papers_lines(rows: Iterable[tuple[Cell, ...]]) -> str:
    if any(cell.paper is not None for row in rows for cell in row):
        return " Under each attack, the paper's numbers."
    return ""


def _known(share: float | None) -> str:
    return NOTHING if share is None else percent(share)


def _counted(name: str, rate: Rate, expected: str) -> tuple[Cell, ...]:
    return (
        Cell(name),
        Cell(percent(rate.value)),
        Cell(interval(rate) or NOT_APPLICABLE),
        Cell(f"{rate.count:,} of {rate.total:,}"),
        Cell(expected),
    )
