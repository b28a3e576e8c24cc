"""Tables of what an evaluation rests on: its origin, constants and settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from keras_traps.evaluation.report.blocks import Cell, Column, Table
from keras_traps.evaluation.report.formatting import NOTHING, measure, nominal, number
from keras_traps.evaluation.report.tables import VARIANT_NAMES, rows_of
from keras_traps.evaluation.results import AttackRow, Evaluation, Variant


def provenance_table(evaluation: Evaluation) -> Table:
    """What a reader needs to run the evaluation again."""
    return facts_table(
        "Where these numbers come from", "Item", evaluation.provenance, code=True
    )


def calibration_table(evaluation: Evaluation) -> Table:
    """The constants of the decoder."""
    constants = {k: v for k, v in evaluation.calibration.items() if k != "explanation"}
    return facts_table("Constants of the decoder W", "Constant", constants)


def facts_table(
    caption: str, head: str, facts: Mapping[str, Any], *, code: bool = False
) -> Table:
    """Makes a table of names and values.

    Args:
        caption: What the table shows.
        head: What the names are.
        facts: The values by name; a mapping among them gives a row for each entry.
        code: Whether the values are commands and hashes.

    Returns:
        The table.
    """
    return Table(
        caption,
        (Column(head, numeric=False), Column("Value", numeric=False)),
        tuple(_flat_rows(facts)),
        code=code,
    )


def threshold_table(evaluation: Evaluation) -> Table:
    """The analyzer's thresholds at each nominal false-positive rate."""
    names = dict.fromkeys(
        name for values in evaluation.thresholds.values() for name in values
    )
    rows = []
    for fpr, values in sorted(evaluation.thresholds.items(), reverse=True):
        cells = [Cell(nominal(fpr))]
        cells += [
            Cell(number(values[name]) if name in values else NOTHING) for name in names
        ]
        rows.append(tuple(cells))
    labels = {"sigma0": "σ₀"}
    return Table(
        "An image is flagged if max w > U, or min w < L, or stdev w > σ₀.",
        (
            Column("Nominal FPR", numeric=False),
            *(Column(labels.get(name, name)) for name in names),
        ),
        tuple(rows),
    )


def settings_table(evaluation: Evaluation) -> Table:
    """Each attack's hyper-parameters and mean distances, equal settings together."""
    variants = [v for v in VARIANT_NAMES if rows_of(evaluation, v)]
    merged: dict[tuple[str, str], dict[Variant, AttackRow]] = {}
    for row in evaluation.rows:
        merged.setdefault((row.attack, str(row.settings)), {})[row.variant] = row
    rows = []
    for (attack, _), members in merged.items():
        settings = next(iter(members.values())).settings
        text = ", ".join(f"{key} = {number(value)}" for key, value in settings.items())
        cells = [Cell(attack), Cell(text or NOTHING)]
        for variant in variants:
            member = members.get(variant)
            cells.append(Cell(measure(member.mean_l2, 2) if member else NOTHING))
        rows.append(tuple(cells))
    return Table(
        "Settings, and the mean L2 distance of successful images (pixels in [0, 1])",
        (
            Column("Attack", numeric=False),
            Column("Settings", numeric=False),
            *(Column(VARIANT_NAMES[v], "mean L2 distance") for v in variants),
        ),
        tuple(rows),
    )


def _flat_rows(values: Mapping[str, Any]) -> Iterable[tuple[Cell, Cell]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            for inner, item in value.items():
                yield Cell(f"{key} · {inner}"), Cell(number(item))
        else:
            yield Cell(str(key)), Cell(number(value))
