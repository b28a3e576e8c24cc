"""Draws a report as Markdown, as GitHub and most viewers read it."""

from __future__ import annotations

import html
import re

from keras_traps.evaluation.report.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Examples,
    Paragraph,
    Picture,
    Table,
    Tiles,
)

FIGURES = "figures"
"""The folder, beside the Markdown file, that holds its pictures."""


def to_markdown(document: Document) -> str:
    """Writes a report as Markdown.

    Args:
        document: The report.

    Returns:
        The text; it shows pictures at `figures/<name>.png`.
    """
    parts = [f"# {_escape(document.title)}", _escape(document.subtitle)]
    for section in document.sections:
        parts.append(f"## {_escape(section.heading)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            text = _escape(block.text)
            return f"> **Note.** {text}" if block.tone == "caution" else text
        case Bullets():
            return "\n".join(
                f"- **{_escape(term)}**: {_escape(text)}" for term, text in block.items
            )
        case Tiles():
            return "\n".join(
                f"- {_escape(tile.label)}: **{_escape(tile.value)}** "
                f"{_escape(tile.remark)}"
                for tile in block.tiles
            )
        case Table():
            return _table(block)
        case Picture():
            image = f"![{_escape(block.alt)}]({FIGURES}/{block.name}.png)"
            return f"{image}\n\n*{_escape(block.caption)}*"
        case Examples():
            return _examples(block)


def _table(table: Table) -> str:
    heads = [_head(column) for column in table.columns]
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [_line(heads), _line(rules)]
    for row in table.rows:
        lines.append(
            _line([_cell(cell, table.code and cell is not row[0]) for cell in row])
        )
        if any(cell.paper is not None for cell in row):
            lines.append(_line([_paper(cell) for cell in row]))
    return f"**{_escape(table.caption)}**\n\n" + "\n".join(lines)


def _head(column: Column) -> str:
    group = f"{_escape(column.group)}: " if column.group else ""
    return group + _escape(column.name)


def _cell(cell: Cell, code: bool) -> str:
    text = _escape(cell.text)
    if code and cell.text:
        # A code span cannot hold a backtick or, in a table, a bar.
        plain = cell.text.replace("\n", " ").replace("|", "\\|")
        text = f"`{plain}`" if "`" not in plain else text
    return f"{text} ({_escape(cell.interval)})" if cell.interval else text


def _paper(cell: Cell) -> str:
    return f"*{_escape(cell.paper)}*" if cell.paper else ""


def _examples(examples: Examples) -> str:
    lines = [
        _line(["Example", "Clean, adversarial, perturbation", "What became of it"])
    ]
    lines.append(_line(["---", "---", "---"]))
    for view in examples.views:
        facts = "<br>".join(f"{_escape(k)}: {_escape(v)}" for k, v in view.facts)
        image = f"![{_escape(view.alt)}]({FIGURES}/{view.name}.png)"
        outcome = f"**{_escape(view.outcome)}**<br>{facts}"
        lines.append(_line([_escape(view.title), image, outcome]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    flat = " ".join(text.split())
    flat = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", flat)
    return html.escape(flat, quote=False)
