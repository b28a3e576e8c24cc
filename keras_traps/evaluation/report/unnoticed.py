"""What gets past the analyzer, beside what does not."""

from __future__ import annotations

from keras_traps.evaluation.report.blocks import (
    Bullets,
    Cell,
    Column,
    Section,
    Table,
)
from keras_traps.evaluation.report.formatting import measure, nominal
from keras_traps.evaluation.results import Evaluation, Fooled

_COLUMNS = (
    (
        "lead of C",
        "by how much C's answer leads on the clean image: the largest probability less "
        "the second. Where it is small, C's own boundary is near, and an attack may "
        "cross it before it meets a trap.",
    ),
    (
        "pull of W",
        "by how much W prefers M's wrong answer to the true class. Where it is small, "
        "it was C that was fooled.",
    ),
    ("L2", "how far the image was moved, pixels in [0, 1]."),
)


def unnoticed_section(evaluation: Evaluation) -> Section:
    """Compares the images that fool M unnoticed with those that are noticed.

    Args:
        evaluation: What was found; at least one attack gets past the analyzer.

    Returns:
        A table in medians, and what its columns mean.
    """
    rows = tuple(
        (
            Cell(one.attack),
            *_cells(one.unnoticed),
            *_cells(one.noticed),
        )
        for one in evaluation.unnoticed
    )
    heads = ("images", "lead of C", "pull of W", "L2")
    columns = (
        Column("Attack", numeric=False),
        *(Column(head, "unnoticed") for head in heads),
        *(Column(head, "noticed") for head in heads),
    )
    fpr = nominal(evaluation.unnoticed[0].fpr)
    return Section(
        "unnoticed",
        "What goes unnoticed",
        (
            Table(
                f"Images that fool M, with the analyzer at {fpr} FPR; medians.",
                columns,
                rows,
            ),
            Bullets(_COLUMNS),
        ),
    )


def _cells(group: Fooled) -> tuple[Cell, ...]:
    return (
        Cell(str(group.count)),
        Cell(measure(group.confidence, 3)),
        Cell(measure(group.pull, 3)),
        Cell(measure(group.l2, 3)),
    )
