"""What the pages of a report are made of, and how they become HTML, Markdown, JSON."""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np

from keras_traps._files import make_writable, write_atomically
from keras_traps.rates import Rate

NOTHING = "–"
"""For a cell that has no meaning in its row."""

NOT_APPLICABLE = "n/a"
"""For a rate of which nothing was tried, e.g. no adversarial image was found."""

FIGURES = "figures"
"""The folder, beside the Markdown file, that holds its pictures."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: What stands in it.
        hint: The counts behind a rate, or empty.
        interval: The 95 % interval of a rate in per cent, or empty.
        paper: The paper's number for it; `None` where no comparison is meant.
        tint: How much of the heat's colour it has, in per cent, or `None`.
        wide: Whether the interval always stands in it.
    """

    text: str
    hint: str = ""
    interval: str = ""
    paper: str | None = None
    tint: int | None = None
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class ReportPaths:
    """Where a report was written.

    Args:
        json: The numbers, for programs.
        markdown: The report for a repository; it shows the figures.
        html: The report as one page that needs no other file.
        figures: The PNG files that the Markdown shows.
    """

    json: Path
    markdown: Path
    html: Path
    figures: tuple[Path, ...]


def write_page(
    directory: str | Path,
    name: str,
    *,
    title: str,
    subtitle: str,
    content: Mapping[str, Any],
    shown: Mapping[str, Any],
    figures: Mapping[str, bytes] | None = None,
) -> ReportPaths:
    """Writes a page as HTML and Markdown, and its numbers as strict JSON.

    The same page gives the same bytes. Each file appears whole or not at all; an older
    one is replaced.

    Args:
        directory: Where to; made if it does not exist.
        name: The files' name without extension, and that of the page in `pages.j2`.
        title: One line for the top.
        subtitle: One line under it.
        content: The numbers; see `plain`.
        shown: What the page shows, by the names that it has there.
        figures: PNG by name, for the Markdown. Defaults to none.

    Returns:
        The paths of what was written.

    Raises:
        OSError: If nothing can be written there.
    """
    directory = Path(directory)
    paths = ReportPaths(
        directory / f"{name}.json",
        directory / f"{name}.md",
        directory / f"{name}.html",
        tuple(directory / FIGURES / f"{one}.png" for one in figures or {}),
    )
    for folder in {directory, *(path.parent for path in paths.figures)}:
        make_writable(folder, name="directory")
    for path, png in zip(paths.figures, (figures or {}).values(), strict=True):
        write_atomically(path, png)
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(paths.json, f"{text}\n".encode())
    for path in (paths.markdown, paths.html):
        template = _environment().get_template(f"report{path.suffix}.j2")
        text = template.render(title=title, subtitle=subtitle, page=name, shown=shown)
        # Macros leave empty lines, which part the rows of Markdown's tables and lists.
        text = re.sub(r"(?m)^([|-])(.*)\n{2,}(?=\1)", r"\1\2\n", text)
        write_atomically(path, re.sub(r"\n{3,}", "\n\n", text).encode())
    return paths


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_traps.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "cells": lambda row: [c if isinstance(c, Cell) else Cell(str(c)) for c in row],
        "code": _code,
        "data": _data,
        "flat": _flat,
        "headings": _headings,
        "interval": interval,
        "listing": listing,
        "md": _markdown,
        "measure": measure,
        "named": lambda keys, names: [names[key] for key in keys],
        "nominal": nominal,
        "number": number,
        "percent": percent,
        "settings": settings_text,
        "share": share,
    }
    made.globals |= {"cell": Cell, "rate": rate_cell, "figures": FIGURES}
    return made


def _headings(page: markupsafe.Markup) -> list[tuple[str, markupsafe.Markup]]:
    found = re.findall(r'<h2 id="(.+?)-heading">(.+?)</h2>', page)
    return [(anchor, markupsafe.Markup(heading)) for anchor, heading in found]


def _flat(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values; a mapping among them has a row for each of its own."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            rows += [(f"{key} · {k}", number(v)) for k, v in value.items()]
        else:
            rows.append((str(key), number(value)))
    return rows


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _markdown(text: str) -> markupsafe.Markup:
    """Escapes a text for Markdown, which has HTML in it."""
    flat = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", " ".join(text.split()))
    return markupsafe.Markup(html.escape(flat, quote=False))


def _code(text: str) -> markupsafe.Markup:
    """Writes a text as code, where a cell of Markdown can hold it as such."""
    if not text or "`" in text:
        return _markdown(text)
    return markupsafe.Markup("`{}`".format(text.replace("\n", " ").replace("|", "\\|")))


def plain(value: Any) -> Any:
    """Turns results into what strict JSON can hold.

    Args:
        value: Rates, dataclasses, mappings, sequences, arrays, numbers and texts.

    Returns:
        The same as dicts, lists, numbers, texts and `None`. A rate becomes `{"count",
        "total", "value", "interval"}`, a number that is not finite `None`, and a key
        that is a number a text, e.g. `"0.05"`.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Rate):
        found = {"value": value.value, "interval": value.interval}
        return plain({"count": value.count, "total": value.total, **found})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # Its fields have names.
    if isinstance(value, Mapping):
        return {
            f"{key:.12g}" if isinstance(key, float) else str(key): plain(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def percent(value: float | None) -> str:
    """Writes a share in per cent, with one decimal and without the sign.

    Args:
        value: A share in [0, 1], or `None`.

    Returns:
        E.g. `"12.3"`. What is not quite 0 or 100 never looks as if it were.
    """
    if value is None or not math.isfinite(value):
        return NOT_APPLICABLE
    text = f"{100 * value:.1f}"
    if text == "0.0" and value > 0:
        return "< 0.1"
    if text == "100.0" and value < 1:
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
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return str(value)


def share(rate: Rate) -> str:
    """Writes a rate in a sentence, e.g. `"12.3 %"`."""
    text = percent(rate.value)
    return text if rate.value is None else f"{text} %"


def interval(rate: Rate) -> str:
    """Writes the 95 % interval of a rate in per cent, e.g. `"10.1–14.2"`."""
    return "–".join(f"{100 * bound:.1f}" for bound in rate.interval or ())


def listing(names: Sequence[str], most: int = 3) -> str:
    """Joins names for a sentence, e.g. `"BIM, PGD, OM and 4 more"`."""
    if len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most} more"]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def rate_cell(
    rate: Rate | None,
    paper: str | None = None,
    *,
    tint: bool = False,
    wide: bool = False,
) -> Cell:
    """Makes the cell of a rate, with its counts and its 95 % interval.

    Args:
        rate: The rate; `None` where the row has no such rate.
        paper: The paper's number as it is written. Defaults to `None`, no comparison.
        tint: Whether the cell is tinted by the rate. Defaults to `False`.
        wide: Whether the interval always stands in the cell. Defaults to `False`.

    Returns:
        The cell.
    """
    if rate is None:
        return Cell(NOTHING, paper=paper)
    if rate.value is None:
        return Cell(NOT_APPLICABLE, "nothing to count", paper=paper)
    # The root lets a few per cent show, and those are what matters here.
    heat = round(100 * math.sqrt(rate.value)) if tint else None
    counts = f"{rate.count:,} of {rate.total:,}"
    return Cell(percent(rate.value), counts, interval(rate), paper, heat, wide)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Writes an attack's hyper-parameters, e.g. `"eps = 0.3, nb_iter = 10"`."""
    return ", ".join(f"{key} = {number(value)}" for key, value in settings.items())
