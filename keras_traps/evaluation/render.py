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

NOTHING = "–"  # in a cell that has no meaning in its row
NOT_APPLICABLE = "n/a"  # for a rate of which nothing was tried
FIGURES = "figures"  # the folder, beside the Markdown file, of its pictures


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    hint: str = ""
    interval: str = ""
    paper: str | None = None
    tint: int | None = None
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class ReportPaths:
    """Where a report was written."""

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
    """Writes a page as HTML and Markdown, and its numbers as strict JSON."""
    directory, figures = Path(directory), figures or {}
    paths = ReportPaths(
        directory / f"{name}.json",
        directory / f"{name}.md",
        directory / f"{name}.html",
        tuple(directory / FIGURES / f"{one}.png" for one in figures),
    )
    for folder in {directory, *(path.parent for path in paths.figures)}:
        make_writable(folder, name="directory")
    for path, png in zip(paths.figures, figures.values(), strict=True):
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
    named = (interval, known, listing, measure, nominal, number, percent)
    made.filters |= {each.__name__: each for each in named}
    made.filters |= {
        "cells": lambda row: [c if isinstance(c, Cell) else Cell(str(c)) for c in row],
        "data": lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "first_of": lambda rates: next(iter(rates.values())),
        "flat": _flat,
        "headings": _headings,
        "md": _markdown,
        "named": lambda keys, names: [names[key] for key in keys],
        "of": class_name,
        "settings": settings_text,
        "share": lambda rate: percent(rate.value) + (" %" if rate.total else ""),
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


def _markdown(text: str) -> markupsafe.Markup:
    """Escapes a text for Markdown, which has HTML in it."""
    flat = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", " ".join(text.split()))
    return markupsafe.Markup(html.escape(flat, quote=False))


def plain(value: Any) -> Any:
    """Turns results into what strict JSON can hold."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Rate):
        value = {**vars(value), "value": value.value, "interval": value.interval}
    if dataclasses.is_dataclass(value):
        value = vars(value)
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
    return value if value is None or isinstance(value, int | str) else str(value)


def percent(value: float | None) -> str:
    """Writes a share in per cent, with one decimal and without the sign."""
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
    there = value is not None and math.isfinite(value)
    return f"{value:.{digits}f}" if there else NOT_APPLICABLE


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
    """Makes the cell of a rate, with its counts and its 95 % interval."""
    if rate is None:
        return Cell(NOTHING, paper=paper)
    if rate.value is None:
        return Cell(NOT_APPLICABLE, "nothing to count", paper=paper)
    # The root lets a few per cent show, and those are what matters here.
    heat = round(100 * math.sqrt(rate.value)) if tint else None
    counts = f"{rate.count:,} of {rate.total:,}"
    return Cell(percent(rate.value), counts, interval(rate), paper, heat, wide)


def known(
    papers: Mapping[str, float | None], key: str | None, digits: int | None = None
) -> str | None:
    """Writes what a paper has: a dash for a gap, `None` where it has no such row."""
    if not papers:
        return None
    if key is None or key not in papers:
        return NOTHING
    value = papers[key]
    return percent(value) if digits is None else measure(value, digits)


def class_name(number: int, names: Sequence[str]) -> str:
    """Writes a class by its name, or by its number where it has none."""
    return names[number] if 0 <= number < len(names) else str(number)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Writes an attack's hyper-parameters, e.g. `"eps = 0.3, nb_iter = 10"`."""
    return ", ".join(f"{key} = {number(value)}" for key, value in settings.items())
