"""The parts of a report, as plain data: what Markdown and HTML both draw."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: What stands in the cell.
        count: The counts behind a rate in words, e.g. `"12 of 100"`, or empty.
        interval: The 95 % interval of a rate in the unit of the cell, or empty.
        paper: The paper's number for this cell; `None` where no comparison is meant.
        share: A rate in [0, 1] that tints the cell, or `None`.
        open_interval: Whether the interval stands in the cell even where others show
            theirs on demand only.
    """

    text: str
    count: str = ""
    interval: str = ""
    paper: str | None = None
    share: float | None = None
    open_interval: bool = False


@dataclasses.dataclass(frozen=True)
class Column:
    """The head of a column.

    Args:
        name: Its name.
        group: A head over several neighbouring columns, or empty.
        numeric: Whether its cells are numbers, to be aligned to the right.
    """

    name: str
    group: str = ""
    numeric: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names the row.

    Args:
        caption: What the table shows, and in what unit.
        columns: One per column.
        rows: One per row, each with one cell per column.
        code: Whether its texts are commands and hashes, best set in a fixed pitch.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    code: bool = False


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text; `caution` marks what a reader must not miss."""

    text: str
    tone: Literal["plain", "caution", "small"] = "plain"


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of sentences, each with an optional term before it."""

    items: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Tile:
    """One headline number: what it is, its value, and what it refers to."""

    label: str
    value: str
    remark: str


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The headline numbers of a report."""

    tiles: tuple[Tile, ...]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot as PNG bytes, in colours for light and for dark surroundings.

    Args:
        name: The file's name without extension.
        alt: What the plot shows, for those who cannot see it.
        caption: What the plot shows and how to read it.
        light: The PNG for a light page.
        dark: The same for a dark page.
    """

    name: str
    alt: str
    caption: str
    light: bytes
    dark: bytes


@dataclasses.dataclass(frozen=True)
class ExampleView:
    """One attacked image as it is shown.

    Args:
        name: The file's name without extension.
        title: The attack and what it did, e.g. `"FGSM: 7 read as 3"`.
        outcome: The verdict in one or two words.
        tone: Whether that is good for the defence.
        alt: What the strip shows, for those who cannot see it.
        strip: A PNG: clean, adversarial and perturbation side by side.
        facts: Terms and what there is to say about each.
    """

    name: str
    title: str
    outcome: str
    tone: Literal["good", "bad"]
    alt: str
    strip: bytes
    facts: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Examples:
    """A grid of attacked images."""

    views: tuple[ExampleView, ...]


Block = Paragraph | Bullets | Table | Tiles | Picture | Examples


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `anchor` is unique in the report."""

    anchor: str
    heading: str
    blocks: tuple[Block, ...]


@dataclasses.dataclass(frozen=True)
class Document:
    """A report: its title, a line under the title, and its sections."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
