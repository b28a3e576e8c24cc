"""The attacks' settings as a section of the luring report."""

from __future__ import annotations

from collections.abc import Iterable

from keras_traps.attacks import PRESET_NOTES, PRESETS
from keras_traps.evaluation.luring.names import NAMES
from keras_traps.evaluation.luring.results import Measured, Results
from keras_traps.evaluation.report.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Section,
    Table,
)
from keras_traps.evaluation.report.formatting import NOTHING, number, percent


def settings_section(results: Results) -> Section:
    """Tells what each attack was run with, and from what it was chosen.

    Args:
        results: What was measured, of one attack at least.

    Returns:
        The section.
    """
    blocks: list[Block] = []
    presets = dict.fromkeys(
        cell.outcome.provenance.get("preset", "") for cell in results.cells
    )
    notes = [
        (name, PRESET_NOTES[name] + _steps_instead(results, name))
        for name in presets
        if name in PRESET_NOTES
    ]
    notes += dict.fromkeys(
        (cell.outcome.attack, cell.outcome.note)
        for cell in results.cells
        if cell.outcome.note
    )
    if notes:
        blocks.append(Bullets(tuple(notes)))
    rows = tuple(tuple(_setting_row(cell)) for cell in results.cells)
    heads = ("Attack, ε", "Attacker", "Variant", "Settings", "Chosen from")
    columns = tuple(Column(head, numeric=False) for head in heads)
    caption = (
        "Of several settings that one is used which leaves M right on the fewest "
        "images, and of those the one with the smallest DAC."
    )
    blocks.append(Table(caption, columns, rows))
    return Section("settings", "Settings of the attacks", tuple(blocks))


def _steps_instead(results: Results, preset: str) -> str:
    """Says how many steps were made, where they are not the preset's."""
    found: set[int] = set()
    for outcome in (cell.outcome for cell in results.cells):
        own = PRESETS[preset].get(outcome.attack, {}).get("nb_iter")
        made = outcome.settings.get("nb_iter")
        if own and outcome.provenance.get("preset") == preset and made != own:
            found.add(int(made or 0))
    listed = " or ".join(map(str, sorted(found)))
    return f" Here `--nb_iter` made it {listed} steps." if found else ""


def _setting_row(cell: Measured) -> Iterable[Cell]:
    outcome = cell.outcome
    settings = ", ".join(f"{k} = {number(v)}" for k, v in outcome.settings.items())
    chosen = NOTHING
    if outcome.trials:
        shares = [trial.ac_m / trial.images for trial in outcome.trials]
        chosen = (
            f"{len(shares)} settings on {outcome.trials[0].images} images: AC_M from "
            f"{percent(min(shares))} to {percent(max(shares))}"
        )
    return (
        Cell(f"{outcome.attack} {outcome.eps:g}"),
        Cell(outcome.threat),
        Cell(NAMES[outcome.variant]),
        Cell(settings),
        Cell(chosen),
    )
