"""One figure with its numbers, and how it is written to files."""

import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from keras_traps._files import make_writable, write_atomically
from keras_traps.evaluation.report.blocks import (
    Block,
    Cell,
    Column,
    Document,
    Picture,
    Section,
    Table,
)
from keras_traps.evaluation.report.canvas import DARK, LIGHT, Scheme
from keras_traps.evaluation.report.markdown import FIGURES, to_markdown
from keras_traps.evaluation.report.setting_tables import facts_table


@dataclasses.dataclass(frozen=True)
class Goal:
    """Something that a figure is to show.

    Args:
        what: What is measured.
        asked: What is asked for, e.g. `"at least 0.8"`.
        found: What was found.
        met: Whether it is what was asked for.
    """

    what: str
    asked: str
    found: str
    met: bool


@dataclasses.dataclass(frozen=True)
class Study:
    """A figure: what it shows, in words, pictures and numbers.

    Args:
        name: The files' name without extension.
        title: One line.
        subtitle: What it was measured on.
        blocks: Text, pictures and tables in their order.
        numbers: The same numbers, for programs.
        goals: What was to be shown, if anything.
    """

    name: str
    title: str
    subtitle: str
    blocks: tuple[Block, ...]
    numbers: Mapping[str, Any]
    goals: tuple[Goal, ...] = ()


def write_study(
    study: Study, provenance: Mapping[str, Any], directory: str | Path
) -> Path:
    """Writes a study as Markdown, JSON and PNG.

    Args:
        study: What was found.
        provenance: What a reader needs to find it again.
        directory: Where to write `<name>.md`, `<name>.json` and `figures/`; made if it
            does not exist.

    Returns:
        The path of the Markdown file.

    Raises:
        OSError: If nothing can be written there.
    """
    directory = Path(directory)
    for folder in (directory, directory / FIGURES):
        make_writable(folder, name="directory")
    for block in study.blocks:
        if isinstance(block, Picture):
            path = directory / FIGURES / f"{block.name}.png"
            write_atomically(path, _smaller(block.light))
    content = {
        "title": study.title,
        "goals": [dataclasses.asdict(goal) for goal in study.goals],
        "numbers": study.numbers,
        "provenance": provenance,
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(directory / f"{study.name}.json", text.encode())
    path = directory / f"{study.name}.md"
    write_atomically(path, to_markdown(_document(study, provenance)).encode())
    return path


def picture(
    name: str, alt: str, caption: str, draw: Callable[[Scheme], bytes]
) -> Picture:
    """Draws a picture for light and for dark pages.

    Args:
        name: The file's name without extension.
        alt: What it shows, for those who cannot see it.
        caption: What it shows and how to read it.
        draw: Draws it as a PNG in given colours.

    Returns:
        The picture.
    """
    return Picture(name, alt, caption, draw(LIGHT), draw(DARK))


def text_table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> Table:
    """Makes a table of texts.

    Args:
        caption: What it shows, and in what unit.
        heads: The columns' heads.
        rows: Its rows, each with one text per column.
        words: How many of the first columns hold words; the others hold numbers.
            Defaults to `1`.

    Returns:
        The table.
    """
    columns = [Column(head, numeric=i >= words) for i, head in enumerate(heads)]
    cells = tuple(tuple(Cell(text) for text in row) for row in rows)
    return Table(caption, tuple(columns), cells)


def quantiles(values: npt.ArrayLike) -> dict[str, float | None]:
    """Returns median and 5 % and 95 % quantile of what is finite, as plain data.

    Args:
        values: Any numbers.

    Returns:
        `"median"`, `"low"` and `"high"`; each `None` where nothing is finite.
    """
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    names = {"median": 0.5, "low": 0.05, "high": 0.95}
    if not finite.size:
        return dict.fromkeys(names)
    return {name: float(np.quantile(finite, rank)) for name, rank in names.items()}


def _smaller(png: bytes) -> bytes:
    """The same picture in 256 colours, which takes a third of the space."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _document(study: Study, provenance: Mapping[str, Any]) -> Document:
    blocks = study.blocks
    if study.goals:
        rows = [
            (goal.what, goal.asked, goal.found, "yes" if goal.met else "no")
            for goal in study.goals
        ]
        heads = ["", "Asked", "Found", "Met"]
        blocks = (*blocks, text_table("What was to be shown", heads, rows, words=4))
    origin = facts_table("Where this comes from", "Item", provenance, code=True)
    return Document(
        study.title,
        study.subtitle,
        (
            Section("result", "Result", blocks),
            Section("provenance", "Provenance", (origin,)),
        ),
    )
