"""The attacks' settings, as the luring report and the figures tell them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keras_traps.attacks import PRESET_NOTES, PRESETS
from keras_traps.evaluation.luring.names import NAMES
from keras_traps.evaluation.luring.outcomes import Outcome
from keras_traps.evaluation.report.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Table,
)
from keras_traps.evaluation.report.formatting import NOTHING, number, percent


def setting_blocks(outcomes: Sequence[Outcome]) -> tuple[Block, ...]:
    """Tells what each attack was run with, and from what it was chosen.

    Args:
        outcomes: What was run, one attack at least.

    Returns:
        What is to be said of the attacks, and a table.
    """
    blocks: list[Block] = []
    presets = dict.fromkeys(
        outcome.provenance.get("preset", "") for outcome in outcomes
    )
    notes = [
        (name, PRESET_NOTES[name] + _steps_instead(outcomes, name))
        for name in presets
        if name in PRESET_NOTES
    ]
    notes += dict.fromkeys(
        (outcome.attack, outcome.note) for outcome in outcomes if outcome.note
    )
    if notes:
        blocks.append(Bullets(tuple(notes)))
    rows = tuple(tuple(_setting_row(outcome)) for outcome in outcomes)
    heads = ("Attack, ε", "Attacker", "Variant", "Settings", "Chosen from")
    columns = tuple(Column(head, numeric=False) for head in heads)
    caption = "What each attack was run with."
    if any(outcome.trials for outcome in outcomes):
        caption = (
            "Of several settings that one is used which leaves M right on the fewest "
            "images, and of those the one with the smallest DAC."
        )
    blocks.append(Table(caption, columns, rows))
    return tuple(blocks)


def _steps_instead(outcomes: Sequence[Outcome], preset: str) -> str:
    """Says how many steps were made, where they are not the preset's."""
    found: set[int] = set()
    for outcome in outcomes:
        own = PRESETS[preset].get(outcome.attack, {}).get("nb_iter")
        made = outcome.settings.get("nb_iter")
        if own and outcome.provenance.get("preset") == preset and made != own:
            found.add(int(made or 0))
    listed = " or ".join(map(str, sorted(found)))
    return f" Here `--nb_iter` made it {listed} steps." if found else ""


def _setting_row(outcome: Outcome) -> Iterable[Cell]:
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
