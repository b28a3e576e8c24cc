"""What the tables of the attractor paper are put together from."""

from __future__ import annotations

from collections.abc import Sequence

from keras_traps.evaluation.report.blocks import (
    Block,
    Cell,
    Column,
    Paragraph,
    Section,
    Table,
)
from keras_traps.evaluation.report.formatting import NOTHING, measure, nominal
from keras_traps.evaluation.report.tables import PAPER_FPR, VARIANT_NAMES, rows_of
from keras_traps.evaluation.results import AttackRow, Evaluation, Variant
from keras_traps.evaluation.targets import Target, reached


def section(number: int, heading: str, *blocks: Block) -> Section:
    """Makes the section of a table, by its Roman number."""
    roman = ("I", "II", "III", "IV", "V", "VI")[number - 1]
    return Section(f"table-{number}", f"Table {roman}. {heading}", blocks)


def table(
    caption: str, names: Sequence[str], rows: Sequence[tuple[Cell, ...]]
) -> Table:
    """Makes a table of attacks."""
    columns = (
        Column("Attack", numeric=False),
        Column("Kind", numeric=False),
        *(Column(name) for name in names),
    )
    return Table(caption, columns, tuple(rows))


def rate_caption(fpr: float) -> str:
    """Says at which nominal false-positive rate a table is."""
    text = f"The analyzer's false-positive rate is {nominal(fpr)}."
    if fpr != PAPER_FPR:
        text += f" The paper's numbers are for {nominal(PAPER_FPR)}."
    return text


def names(row: AttackRow) -> tuple[Cell, Cell]:
    """Makes the first two cells of a row."""
    return Cell(row.attack, paper="paper"), Cell(row.kind, paper="")


def tries(row: AttackRow) -> Cell:
    """Makes the last cell of a row: how many images were attacked."""
    return Cell(str(row.success_trapped.total), paper="")


def paper_measure(row: AttackRow, key: str, digits: int) -> str:
    """Writes one of the paper's numbers that are no rates."""
    return measure(row.paper[key], digits) if key in row.paper else NOTHING


def verdict(
    evaluation: Evaluation, variant: Variant, target: Target
) -> tuple[Paragraph, ...]:
    """Says for how many attacks a target is met, and for which it is not."""
    found = reached(rows_of(evaluation, variant), target)
    if not found.compared:
        return ()
    who = VARIANT_NAMES[variant]
    text = f"{who[0].upper()}{who[1:]}: {target.value} for "
    text += f"{len(found.within)} of {len(found.compared)} attacks."
    if found.missed:
        text += f" Not for {', '.join(found.missed)}."
    return (Paragraph(text),)
