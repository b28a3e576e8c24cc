"""The report of what random noise alone does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_traps.evaluation.noise import NoiseRow
from keras_traps.evaluation.report.blocks import (
    Cell,
    Column,
    Document,
    Paragraph,
    Section,
    Table,
)
from keras_traps.evaluation.report.formatting import nominal, number, rate_cell
from keras_traps.evaluation.report.setting_tables import facts_table


def build_noise_report(
    rows: Sequence[NoiseRow], dataset: str, provenance: Mapping[str, Any]
) -> Document:
    """Turns what was measured into a page.

    Args:
        rows: What noise did, at least one row.
        dataset: The data set's name.
        provenance: What a reader needs to run it again.

    Returns:
        The page.
    """
    rates = list(rows[0].unnoticed)
    columns = (
        Column("noise", numeric=False),
        *(Column(name) for name in ("radius", "fools C", "fools M")),
        *(Column(f"unnoticed, {nominal(fpr)} FPR") for fpr in rates),
    )
    cells = tuple(
        (
            Cell(row.kind),
            Cell(number(row.eps)),
            rate_cell(row.fools_classifier),
            rate_cell(row.fools_trapped),
            *(rate_cell(row.unnoticed[fpr]) for fpr in rates),
        )
        for row in rows
    )
    return Document(
        f"Random noise on {dataset}",
        "Rates in per cent with 95 % intervals, of images that C gets right.",
        (
            Section(
                "noise",
                "What noise alone does",
                (
                    Paragraph(
                        "No gradient is followed here. Where noise fools C by itself, "
                        "an attack need not meet a trap: it says as much of C as of "
                        "the defence."
                    ),
                    Table("One draw for each image.", columns, cells),
                ),
            ),
            Section(
                "origin",
                "Origin",
                (
                    facts_table(
                        "Where these numbers come from", "Item", provenance, code=True
                    ),
                ),
            ),
        ),
    )
