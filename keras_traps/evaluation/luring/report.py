"""The luring paper's tables as a report, the paper's numbers beside the measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_traps.evaluation.luring.names import NAMES
from keras_traps.evaluation.luring.paper import paper_cell, paper_clean
from keras_traps.evaluation.luring.results import (
    MEASURES,
    TABLED,
    Clean,
    Comparison,
    Measured,
    Results,
)
from keras_traps.evaluation.luring.setting_report import setting_blocks
from keras_traps.evaluation.luring.subjects import THREATS, Threat
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
    percent,
    rate_cell,
)
from keras_traps.evaluation.report.setting_tables import facts_table

_NUMBERS = {"mnist": "Table 2", "svhn_cropped": "Table 3", "cifar10": "Table 4"}

_TERMS = (
    ("M, M∘P", "the classifier, and the classifier behind the network P."),
    ("AC_M∘P", "attacked images that M∘P is still right on."),
    ("AC_M", "attacked images that M is still right on: M's answer is what counts."),
    (
        "DAC",
        "attacked images that M is right on, or on which M and M∘P differ: an answer "
        "is given only where both agree (Equation 4).",
    ),
)


def build_report(results: Results) -> Document:
    """Turns what was measured into the paper's tables.

    Args:
        results: What was measured; attacks may be missing.

    Returns:
        The tables, what they rest on, and where they come from.
    """
    sections = [_clean(results)]
    ours = [cell for cell in results.cells if cell.outcome.threat == "luring"]
    if ours:
        sections.append(_attacks(results, ours))
    if len({cell.outcome.threat for cell in results.cells} - {"luring"}):
        sections.append(_threats(results))
    if results.cells:
        told = setting_blocks([cell.outcome for cell in results.cells])
        sections.append(Section("settings", "Settings of the attacks", told))
    origin = facts_table(
        "Where these numbers come from", "Item", results.provenance, code=True
    )
    trained = [
        facts_table(f"How {NAMES[row.variant]} was trained", "Item", row.facts)
        for row in results.clean
    ]
    sections.append(Section("origin", "Origin", (origin, *trained)))
    return Document(
        f"Luring on {results.dataset}",
        "Rates in per cent with 95 % intervals; the paper's numbers below each.",
        tuple(sections),
    )


def _clean(results: Results) -> Section:
    rows = []
    for row in results.clean:
        paper = paper_clean(results.dataset, row.variant)
        rows.append(
            (
                Cell(NAMES[row.variant], paper="paper" if paper else None),
                *(
                    rate_cell(
                        rate, _paper(paper, key) if paper else None, open_interval=True
                    )
                    for key, rate in (("test", row.test), ("agree", row.agree))
                ),
                rate_cell(row.same, open_interval=True),
                Cell(f"{row.parameters:,}"),
            )
        )
    heads = ("right", "both right", "one answer", "weights")
    found = Table(
        f"{_images(results.clean)} clean test images. “Both right” is the paper's "
        "“agree”: M and M∘P are right.",
        (Column("Model", numeric=False), *(Column(head) for head in heads)),
        tuple(rows),
    )
    return Section("table-1", "Table 1. Clean test images", (found,))


def _images(clean: Sequence[Clean]) -> str:
    return f"{max((row.test.total for row in clean), default=0):,}"


def _attacks(results: Results, cells: Sequence[Measured]) -> Section:
    title = _NUMBERS.get(results.dataset, "The paper's attacks")
    tabled = [cell for cell in cells if cell.outcome.attack in TABLED]
    others = [cell for cell in cells if cell.outcome.attack not in TABLED]
    blocks: list[Block] = [Bullets(_TERMS)]
    if tabled:
        caption = (
            "The images are the first of the test set that M and that M∘P are right "
            "on: each variant has met its own."
        )
        blocks.append(_cell_table(results.dataset, tabled, caption))
        blocks += [Paragraph(_sentence(found)) for found in results.comparisons]
    if others:
        caption = "Attacks of the paper's figures, on the same images."
        blocks.append(_cell_table(results.dataset, others, caption))
    return Section(
        "attacks", f"{title}. Made on M∘P, shown to M and to M∘P", tuple(blocks)
    )


def _cell_table(dataset: str, cells: Sequence[Measured], caption: str) -> Table:
    variants = [name for name in NAMES if any(c.outcome.variant == name for c in cells)]
    by_row: dict[tuple[str, float], dict[str, Measured]] = {}
    for cell in cells:
        place = (cell.outcome.attack, cell.outcome.eps)
        by_row.setdefault(place, {})[cell.outcome.variant] = cell
    known = any(paper_cell(dataset, *place, "luring") for place in by_row)
    rows = []
    for (attack, eps), found in by_row.items():
        row = [Cell(f"{attack} {eps:g}", paper="paper" if known else None)]
        for variant in variants:
            paper = paper_cell(dataset, attack, eps, variant)
            row += [
                rate_cell(
                    getattr(found[variant].rates, measure)
                    if variant in found
                    else None,
                    _paper(paper, measure) if known else None,
                )
                for measure in MEASURES
            ]
        rows.append((*row, Cell(_counts(found))))
    columns = (
        Column("Attack, ε", numeric=False),
        *(
            Column(name, NAMES[variant])
            for variant in variants
            for name in MEASURES.values()
        ),
        Column("images"),
    )
    return Table(caption, columns, tuple(rows))


def _counts(found: Mapping[str, Measured]) -> str:
    """How many images were attacked, of each variant where it is not one number."""
    counts = {name: found[name].outcome.images for name in NAMES if name in found}
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{NAMES[name]} {count}" for name, count in counts.items())


def _sentence(found: Comparison) -> str:
    text = (
        f"{MEASURES[found.measure]}: Luring is above {NAMES[found.baseline]} in "
        f"{found.above} of {found.cells} cells."
    )
    if found.missed:
        listed = ", ".join(
            f"{attack} {eps:g} ({percent(luring)} against {percent(other)})"
            for attack, eps, luring, other in found.missed
        )
        text += f" Not in {listed}."
    if found.uneven:
        text += (
            f" In {len(found.uneven)} of them the two have different numbers of "
            "images; see the last column."
        )
    if found.unlike:
        listed = ", ".join(f"{attack} {eps:g}" for attack, eps in found.unlike)
        text += f" Left out, for the settings of the attacks differ: {listed}."
    same = found.paired
    low, high = same.images
    met = str(low) if low == high else f"{low} to {high}"
    return (
        f"{text} On the images that both met, {met} in a cell, it is above in "
        f"{same.above}: in {same.surely_above} beyond chance (McNemar's exact test, "
        f"5 % for each cell), and below beyond chance in {same.surely_below}."
    )


def _threats(results: Results) -> Section:
    known: tuple[Threat, ...] = tuple(THREATS)
    compared = {
        (cell.outcome.variant, cell.outcome.eps)
        for cell in results.cells
        if cell.outcome.threat != "luring"
    }
    cells = sorted(
        (
            cell
            for cell in results.cells
            if (cell.outcome.variant, cell.outcome.eps) in compared
        ),
        key=lambda cell: (
            list(NAMES).index(cell.outcome.variant),
            cell.outcome.eps,
            list(known).index(_threat(cell)),
        ),
    )
    rows = tuple(
        (
            Cell(NAMES[cell.outcome.variant]),
            Cell(f"{cell.outcome.eps:g}"),
            Cell(cell.outcome.threat),
            Cell(cell.outcome.attack),
            *(
                rate_cell(getattr(cell.rates, measure), open_interval=True)
                for measure in MEASURES
            ),
            Cell(str(cell.outcome.images)),
        )
        for cell in cells
    )
    heads = ("Variant", "ε", "Attacker", "Attack")
    columns = (
        *(Column(head, numeric=head == "ε") for head in heads),
        *(Column(name) for name in MEASURES.values()),
        Column("images"),
    )
    told = Bullets(
        tuple(
            (threat, f"{THREATS[threat]}.")
            for threat in known
            if any(cell.outcome.threat == threat for cell in cells)
        )
    )
    return Section(
        "threats",
        "Attackers that know more, or do without M∘P, and a control",
        (told, Table("What is deployed stays the same.", columns, rows)),
    )


def _threat(cell: Measured) -> Threat:
    found: Any = cell.outcome.threat
    return found


def _paper(paper: dict[str, float | None], key: str) -> str:
    value = paper.get(key)
    return NOTHING if value is None else percent(value)
