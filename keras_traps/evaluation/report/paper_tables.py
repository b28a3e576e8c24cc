"""The attractor paper's Tables I to VI from an evaluation, the paper's beside."""

from __future__ import annotations

from collections.abc import Sequence

from keras_traps.evaluation.report.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Paragraph,
    Section,
    Table,
)
from keras_traps.evaluation.report.formatting import (
    NOTHING,
    measure,
    nominal,
    paper_percent,
    rate_cell,
)
from keras_traps.evaluation.report.paper_integrated import table_5, table_6
from keras_traps.evaluation.report.paper_parts import (
    names,
    paper_measure,
    rate_caption,
    section,
    table,
    tries,
    verdict,
)
from keras_traps.evaluation.report.setting_tables import (
    provenance_table,
    settings_table,
    threshold_table,
)
from keras_traps.evaluation.report.tables import (
    PAPER_FPR,
    clean_table,
    detection_at,
    rows_of,
)
from keras_traps.evaluation.report.unnoticed import unnoticed_section
from keras_traps.evaluation.results import INTEGRATED, AttackRow, Evaluation, Variant
from keras_traps.evaluation.targets import Target

BASELINES = ("LID", "FS", "MagNet", "Trapdoor")
"""Table III's other defences, whose columns wait for their runs."""

_LOW_FPR = 0.005

VARIANTS_OF: dict[int, tuple[Variant, ...]] = {
    1: ("paper",),
    2: (),
    3: ("paper",),
    4: ("paper",),
    5: INTEGRATED,
    6: INTEGRATED,
}
"""Which variants of the trapped model a table is made of, by its number."""

RATES_OF: dict[int, tuple[float, ...]] = {
    1: (PAPER_FPR,),
    2: (),
    3: (PAPER_FPR,),
    4: (PAPER_FPR, _LOW_FPR),
    5: (PAPER_FPR,),
    6: (PAPER_FPR,),
}
"""Which nominal false-positive rates a table of the paper is for, by its number."""


def build_tables(evaluation: Evaluation, numbers: Sequence[int]) -> Document:
    """Turns an evaluation into the paper's tables.

    Args:
        evaluation: What was found, with the variants of `VARIANTS_OF`.
        numbers: Which tables, from 1 to 6.

    Returns:
        The tables, their settings and where they come from.
    """
    makers = {
        1: _table_1,
        2: _table_2,
        3: _table_3,
        4: _table_4,
        5: table_5,
        6: table_6,
    }
    sections = [makers[number](evaluation) for number in sorted(set(numbers))]
    if evaluation.unnoticed:
        sections.append(unnoticed_section(evaluation))
    sections.append(_remarks(evaluation))
    sections.append(Section("origin", "Origin", (provenance_table(evaluation),)))
    return Document(
        f"The paper's tables on {evaluation.dataset}",
        "Rates in per cent with 95 % intervals; the paper's numbers in italics below.",
        tuple(sections),
    )


def _table_1(evaluation: Evaluation) -> Section:
    measured = evaluation.thresholds
    fpr = PAPER_FPR if PAPER_FPR in measured else max(measured)
    rows = [
        (
            *names(row),
            rate_cell(row.success_classifier, paper_percent(row.paper, "asr_original")),
            rate_cell(row.success_trapped, paper_percent(row.paper, "asr_attractors")),
            *_detection(row, fpr),
            tries(row),
        )
        for row in rows_of(evaluation, "paper")
    ]
    return section(
        1,
        "Attacks on C and on M, detection, recovery and overall success",
        table(
            rate_caption(fpr),
            ("fools C", "fools M", "detected", "recovered", "overall", "images"),
            rows,
        ),
        *verdict(evaluation, "paper", Target.OVERALL),
        *verdict(evaluation, "paper", Target.UNDEFENDED),
    )


def _table_2(evaluation: Evaluation) -> Section:
    return section(2, "Accuracy on clean images", clean_table(evaluation))


def _table_3(evaluation: Evaluation) -> Section:
    rows = []
    for row in rows_of(evaluation, "paper"):
        found = detection_at(row, PAPER_FPR)
        false = evaluation.clean.false_positives.get(PAPER_FPR)
        rows.append(
            (
                *names(row),
                rate_cell(
                    found.detected if found else None,
                    paper_percent(row.paper, "detection"),
                ),
                rate_cell(false, "5.0"),
                Cell(measure(row.auc, 3), paper=paper_measure(row, "auc", 3)),
                rate_cell(
                    found.overall if found else None,
                    paper_percent(row.paper, "overall_asr"),
                ),
                *(Cell(NOTHING, paper="") for _ in BASELINES),
            )
        )
    heads = ("TPR", "FPR", "AUC", "overall")
    columns = (
        Column("Attack", numeric=False),
        Column("Kind", numeric=False),
        *(Column(name, "Attractors") for name in heads),
        *(Column(name, "Baselines") for name in BASELINES),
    )
    found_table = Table(
        "The baselines have not been run; their columns are kept for them.",
        columns,
        tuple(rows),
    )
    return section(3, "Detection beside other defences", found_table)


def _table_4(evaluation: Evaluation) -> Section:
    rows = []
    for row in rows_of(evaluation, "paper"):
        cells = [*names(row)]
        for fpr in (PAPER_FPR, _LOW_FPR):
            found = detection_at(row, fpr)
            paper = "overall_asr" if fpr == PAPER_FPR else "overall_asr_fpr0.5"
            cells += [
                rate_cell(found.detected if found else None, ""),
                rate_cell(
                    found.overall if found else None, paper_percent(row.paper, paper)
                ),
            ]
        rows.append((*cells, tries(row)))
    columns = (
        Column("Attack", numeric=False),
        Column("Kind", numeric=False),
        *(
            Column(name, f"{nominal(fpr)} FPR")
            for fpr in (PAPER_FPR, _LOW_FPR)
            for name in ("TPR", "overall")
        ),
        Column("images"),
    )
    return section(
        4,
        "Detection at a low false-positive rate",
        Table("Both thresholds on the same attacks.", columns, tuple(rows)),
        threshold_table(evaluation),
        *verdict(evaluation, "paper", Target.OVERALL_LOW),
    )


def _remarks(evaluation: Evaluation) -> Section:
    blocks: list[Block] = [
        Paragraph(warning, "caution") for warning in evaluation.warnings
    ]
    notes = {row.attack: row.note for row in evaluation.rows if row.note}
    if notes:
        blocks.append(Bullets(tuple(notes.items())))
    if evaluation.rows:
        blocks.append(settings_table(evaluation))
    return Section("settings", "Warnings, notes and settings", tuple(blocks))


def _detection(row: AttackRow, fpr: float) -> tuple[Cell, ...]:
    found = detection_at(row, fpr)
    return (
        rate_cell(
            found.detected if found else None, paper_percent(row.paper, "detection")
        ),
        rate_cell(
            found.recovered if found else None, paper_percent(row.paper, "recovery")
        ),
        rate_cell(
            found.overall if found else None, paper_percent(row.paper, "overall_asr")
        ),
    )
