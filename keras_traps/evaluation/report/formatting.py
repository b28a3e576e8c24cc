"""How numbers and settings are written in a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_traps.evaluation.report.blocks import Cell
from keras_traps.rates import Rate

NOTHING = "–"
"""For a cell that has no meaning in its row."""

NOT_APPLICABLE = "n/a"
"""For a rate of which nothing was tried, e.g. no adversarial image was found."""


def percent(share: float | None) -> str:
    """Writes a share in per cent, with one decimal and without the sign.

    Args:
        share: A share in [0, 1], or `None`.

    Returns:
        E.g. `"12.3"`. What is not quite 0 or 100 never looks as if it were.
    """
    if share is None or not math.isfinite(share):
        return NOT_APPLICABLE
    text = f"{100 * share:.1f}"
    if text == "0.0" and share > 0:
        return "< 0.1"
    if text == "100.0" and share < 1:
        return "> 99.9"
    return text


def nominal(fpr: float) -> str:
    """Writes a nominal false-positive rate, e.g. `0.005` as `"0.5 %"`."""
    return f"{100 * fpr:.6g} %"


def measure(value: float | None, digits: int) -> str:
    """Writes a measured number with fixed decimals, or that there is none."""
    if value is None or not math.isfinite(value):
        return NOT_APPLICABLE
    return f"{value:.{digits}f}"


def number(value: Any) -> str:
    """Writes a number, a text or a sequence of them in a cell."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return str(value)


def paper_percent(paper: Mapping[str, float | None], key: str) -> str:
    """Writes one of the paper's numbers, or a dash where the paper has none."""
    return percent(paper[key]) if key in paper else NOTHING


def interval(rate: Rate) -> str:
    """Writes the 95 % interval of a rate in per cent, e.g. `"10.1–14.2"`."""
    if rate.interval is None:
        return ""
    return "–".join(f"{100 * bound:.1f}" for bound in rate.interval)


def rate_cell(
    rate: Rate | None,
    paper: str | None = None,
    *,
    tint: bool = False,
    open_interval: bool = False,
) -> Cell:
    """Makes the cell of a rate.

    Args:
        rate: The rate; `None` where the row has no such rate.
        paper: The paper's number as it is written, or `None` for no comparison.
        tint: Whether the cell is tinted by the rate.
        open_interval: Whether the interval always stands in the cell.

    Returns:
        The cell, with its counts and its 95 % interval.
    """
    if rate is None:
        return Cell(NOTHING, paper=paper)
    if rate.value is None:
        return Cell(NOT_APPLICABLE, count="nothing to count", paper=paper)
    return Cell(
        percent(rate.value),
        count=f"{rate.count:,} of {rate.total:,}",
        interval=interval(rate),
        paper=paper,
        share=rate.value if tint else None,
        open_interval=open_interval,
    )


def listing(names: list[str], most: int = 3) -> str:
    """Joins names for a sentence, e.g. `"BIM, PGD, OM and 4 more"`."""
    if len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most} more"]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
