"""What a page of a report is made of, and how it becomes HTML, Markdown or JSON."""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

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
        hint: The counts and the interval of a rate, in words, or empty.
        interval: The 95 % interval of a rate in per cent, or empty.
        paper: The paper's number for it; `None` where no comparison is meant.
        share: A rate in [0, 1] that tints it, or `None`.
        wide: Whether the interval always stands in it.
    """

    text: str
    hint: str = ""
    interval: str = ""
    paper: str | None = None
    share: float | None = None
    wide: bool = False

    @property
    def tint(self) -> int:
        """How much of the heat's colour it has, in per cent."""
        # The root lets a few per cent show, and those are what matters here.
        return round(100 * math.sqrt(self.share or 0))


@dataclasses.dataclass(frozen=True)
class Column:
    """The head of a column; several may have a head in common, `group`."""

    name: str
    group: str = ""
    numeric: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it. `code` is for commands and hashes."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    code: bool = False

    kind: ClassVar[str] = "table"

    @property
    def groups(self) -> list[tuple[str, list[Column]]]:
        """The heads over several columns, in order, with those under each."""
        pairs = itertools.groupby(self.columns, lambda column: column.group)
        return [(group, list(members)) for group, members in pairs]

    @property
    def firsts(self) -> list[bool]:
        """For each column, whether a group begins or ends before it."""
        pairs = itertools.pairwise(self.columns)
        return [False, *(one.group != other.group for one, other in pairs)]


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; `caution` marks what a reader must not miss."""

    text: str
    tone: Literal["plain", "caution"] = "plain"

    kind: ClassVar[str] = "text"


@dataclasses.dataclass(frozen=True)
class Terms:
    """Terms and what each means."""

    items: Sequence[tuple[str, str]]

    kind: ClassVar[str] = "terms"


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The headline numbers: what each is, its value, what it refers to."""

    items: Sequence[tuple[str, str, str]]

    kind: ClassVar[str] = "tiles"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot as PNG bytes, for a light and for a dark page."""

    name: str
    alt: str
    caption: str
    light: bytes
    dark: bytes

    kind: ClassVar[str] = "picture"


@dataclasses.dataclass(frozen=True)
class Example:
    """One attacked image: a strip of pixels, and what became of it."""

    name: str
    title: str
    outcome: str
    good: bool
    alt: str
    strip: bytes
    facts: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Examples:
    """A grid of attacked images."""

    items: Sequence[Example]

    kind: ClassVar[str] = "examples"


Part = Table | Text | Terms | Tiles | Picture | Examples


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `anchor` is unique in the page."""

    anchor: str
    heading: str
    parts: Sequence[Part]


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
    sections: Sequence[Section],
    content: Mapping[str, Any],
) -> ReportPaths:
    """Writes a page as HTML and Markdown, and its numbers as strict JSON.

    The same page gives the same bytes. Each file appears whole or not at all; an older
    one is replaced.

    Args:
        directory: Where to; made if it does not exist.
        name: The files' name without extension.
        title: One line for the top.
        subtitle: One line under it.
        sections: What is on it.
        content: The numbers; see `plain`.

    Returns:
        The paths of what was written.

    Raises:
        OSError: If nothing can be written there.
    """
    directory = Path(directory)
    make_writable(directory, name="directory")
    figures = [
        (directory / FIGURES / f"{figure.name}.png", png)
        for section in sections
        for part in section.parts
        for figure, png in _figures(part)
    ]
    if figures:
        make_writable(directory / FIGURES, name="directory")
    for path, png in figures:
        write_atomically(path, png)
    page = {"title": title, "subtitle": subtitle, "sections": sections}
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    paths = ReportPaths(
        directory / f"{name}.json",
        directory / f"{name}.md",
        directory / f"{name}.html",
        tuple(path for path, _ in figures),
    )
    write_atomically(paths.json, f"{text}\n".encode())
    for path in (paths.markdown, paths.html):
        template = _environment().get_template(f"report{path.suffix}.j2")
        write_atomically(path, template.render(page).encode())
    return paths


def _figures(part: Part) -> Iterable[tuple[Picture | Example, bytes]]:
    if isinstance(part, Picture):
        return [(part, part.light)]
    if isinstance(part, Examples):
        return [(example, example.strip) for example in part.items]
    return []


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_traps.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"data": _data, "md": _markdown, "code": _code}
    made.globals["figures"] = FIGURES
    return made


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _markdown(text: str) -> markupsafe.Markup:
    """Escapes a text for Markdown, which has HTML in it."""
    flat = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", " ".join(text.split()))
    return markupsafe.Markup(html.escape(flat, quote=False))


def _code(text: str) -> markupsafe.Markup:
    """Writes a text as code, where a cell of Markdown can hold it as such."""
    flat = text.replace("\n", " ").replace("|", "\\|")
    return (
        markupsafe.Markup(f"`{flat}`") if text and "`" not in text else _markdown(text)
    )


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
        return Cell(NOT_APPLICABLE, hint="nothing to count", paper=paper)
    told = interval(rate)
    return Cell(
        percent(rate.value),
        f"{rate.count:,} of {rate.total:,}; 95 % interval {told} %",
        told,
        paper,
        rate.value if tint else None,
        wide,
    )


def columns(*heads: str, words: int = 1) -> list[Column]:
    """Makes the heads of columns, of which the first few hold words."""
    return [Column(head, numeric=i >= words) for i, head in enumerate(heads)]


def facts_table(
    caption: str, head: str, facts: Mapping[str, Any], *, code: bool = False
) -> Table:
    """Makes a table of names and values; a mapping among them has a row for each."""
    rows = []
    for key, value in facts.items():
        inner = value.items() if isinstance(value, Mapping) else None
        if inner is None:
            rows.append((Cell(str(key)), Cell(number(value))))
        else:
            rows += [(Cell(f"{key} · {k}"), Cell(number(v))) for k, v in inner]
    return Table(caption, columns(head, "Value", words=2), rows, code)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Writes an attack's hyper-parameters, e.g. `"eps = 0.3, nb_iter = 10"`."""
    return ", ".join(f"{key} = {number(value)}" for key, value in settings.items())
