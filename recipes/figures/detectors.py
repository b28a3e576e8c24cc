"""What gets past each detector, by what the attacker knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from figures.drawing import HUES, INK, Result, blank, style_axes

_ATTACKERS: dict[str, tuple[str, ...]] = {
    "follows the model's gradient": ("gradients",),
    "asks, and hears of rejections": ("labels", "scores"),
    "follows the detector's score too": ("everything",),
}
_BAR = 0.26


def figure_detectors(board: Mapping[str, Any]) -> Result:
    """Draws the worst attack of each kind of attacker, from a leaderboard's numbers."""
    contenders = [row["contender"] for row in board["rows"]]
    fpr = max(
        (each for row in board["rows"] for each in row["false_positives"]), key=float
    )
    rows = [
        {"contender": name, "attacker": attacker, **found}
        for name in contenders
        for attacker, levels in _ATTACKERS.items()
        if (found := _worst(board["attacks"], name, levels, fpr))
    ]
    figure = blank(7.6, 0.9 + 0.62 * len(contenders))
    axes = figure.subplots()
    style_axes(axes)
    for rank, (attacker, hue) in enumerate(zip(_ATTACKERS, HUES, strict=False)):
        own = [row for row in rows if row["attacker"] == attacker]
        places = [contenders.index(row["contender"]) + (rank - 1) * _BAR for row in own]
        shares = [100 * row["through"] for row in own]
        axes.barh(places, shares, height=0.9 * _BAR, color=hue, label=attacker)
        for place, share, row in zip(places, shares, own, strict=True):
            text = f"{share:.0f}  {row['attack']}"
            axes.text(share + 1, place, text, va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(contenders)), contenders)
    axes.invert_yaxis()
    axes.set_xlim(0, 125)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(f"gets through at {100 * float(fpr):g} % false positives, in %")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return Result(
        figure="detectors",
        dataset="",
        title="What gets past each detector",
        pictures={"detectors": figure},
        numbers={"attackers": rows},
        words={"fpr": f"{100 * float(fpr):g}", "images": board["attacks"][0]["images"]},
    )


def _worst(
    attacks: Sequence[Mapping[str, Any]], name: str, levels: Sequence[str], fpr: str
) -> dict[str, Any]:
    """Returns the attack of some levels that most images are lost to, if any."""
    largest = max(row["eps"] for row in attacks)
    found = [
        (row["through"].get(fpr, row["fooled"])["value"], row["attack"])
        for row in attacks
        if row["contender"] == name
        and row["level"] in levels
        and row["eps"] in (0.0, largest)
    ]
    if not found:
        return {}
    share, attack = max(found)
    return {"through": share, "attack": attack}
