"""Draws a report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import html
import itertools
import math

from keras_traps.evaluation.report.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Examples,
    ExampleView,
    Paragraph,
    Picture,
    Section,
    Table,
    Tiles,
)
from keras_traps.evaluation.report.style import STYLE


def to_html(document: Document) -> str:
    """Writes a report as a page without scripts or references to other files.

    Args:
        document: The report.

    Returns:
        A complete HTML 5 document; pictures are in it as data.
    """
    title = _escape(document.title)
    contents = "".join(
        f'<li><a href="#{_escape(section.anchor)}">{_escape(section.heading)}</a></li>'
        for section in document.sections
    )
    sections = "\n".join(_section(section) for section in document.sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="subtitle">{_escape(document.subtitle)}</p>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    anchor = _escape(section.anchor)
    blocks = "\n".join(_block(block) for block in section.blocks)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-heading">\n'
        f'<h2 id="{anchor}-heading">{_escape(section.heading)}</h2>\n'
        f"{blocks}\n</section>"
    )


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f'<p class="{block.tone}">{_escape(block.text)}</p>'
        case Bullets():
            items = "".join(
                f"<div><dt>{_escape(term)}</dt><dd>{_escape(text)}</dd></div>"
                for term, text in block.items
            )
            return f'<dl class="terms">{items}</dl>'
        case Tiles():
            tiles = "".join(
                f"<div><dt>{_escape(tile.label)}</dt>"
                f"<dd><strong>{_escape(tile.value)}</strong> "
                f"{_escape(tile.remark)}</dd></div>"
                for tile in block.tiles
            )
            return f'<dl class="tiles">{tiles}</dl>'
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Examples():
            views = "\n".join(_example(view) for view in block.views)
            return f'<div class="examples">\n{views}\n</div>'


def _table(table: Table) -> str:
    caption = _escape(table.caption)
    body = "\n".join(_rows(table, row) for row in table.rows)
    kind = "code" if table.code else "plain"
    # Only what can be focused can be scrolled with the keyboard.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">\n'
        f'<table class="{kind}">\n<caption><span>{caption}</span></caption>\n'
        f"<thead>{_heads(table.columns)}</thead>\n{body}\n</table>\n</div>"
    )


def _heads(columns: tuple[Column, ...]) -> str:
    if not any(column.group for column in columns):
        return f"<tr>{''.join(_head(column) for column in columns)}</tr>"
    above, below = "", ""
    for group, members in itertools.groupby(columns, lambda column: column.group):
        inside = list(members)
        if group:
            span = f'colspan="{len(inside)}" scope="colgroup" class="group"'
            above += f"<th {span}>{_escape(group)}</th>"
            below += _head(inside[0], ' class="first num"')
            below += "".join(_head(column) for column in inside[1:])
        else:
            above += "".join(_head(column, ' rowspan="2"') for column in inside)
    return f"<tr>{above}</tr><tr>{below}</tr>"


def _head(column: Column, attributes: str = "") -> str:
    if column.numeric and "class" not in attributes:
        attributes += ' class="num"'
    return f'<th scope="col"{attributes}>{_escape(column.name)}</th>'


def _rows(table: Table, row: tuple[Cell, ...]) -> str:
    cells = "".join(
        _cell(cell, column, first)
        for cell, column, first in zip(row, table.columns, _firsts(table), strict=True)
    )
    lines = f"<tr>{cells}</tr>"
    if any(cell.paper is not None for cell in row):
        papers = "".join(
            _paper(cell, column, first)
            for cell, column, first in zip(
                row, table.columns, _firsts(table), strict=True
            )
        )
        lines += f'<tr class="paper">{papers}</tr>'
    return f"<tbody>{lines}</tbody>"


def _firsts(table: Table) -> list[str]:
    """Says for each column whether it names the row or begins a group."""
    kinds = ["name"]
    for before, column in itertools.pairwise(table.columns):
        kinds.append("first" if column.group != before.group else "")
    return kinds


def _classes(column: Column, kind: str) -> str:
    names = [name for name in ("num" if column.numeric else "", kind) if name]
    return f' class="{" ".join(names)}"' if names else ""


def _cell(cell: Cell, column: Column, kind: str) -> str:
    classes = _classes(column, kind)
    if kind == "name":
        return f'<th scope="row"{classes}>{_escape(cell.text)}</th>'
    title = cell.count
    if cell.interval:
        title += f"; 95 % interval {cell.interval} %"
    hint = f' title="{_escape(title)}"' if title else ""
    text = _escape(cell.text)
    if cell.share is not None:
        # The root lets a few per cent show, and those are what matters here.
        tint = f"--tint:{100 * math.sqrt(cell.share):.0f}%"
        text = f'<span class="tint" style="{tint}">{text}</span>'
    if cell.open_interval and cell.interval:
        text = f"<small>{_escape(cell.interval)}</small>{text}"
    return f"<td{classes}{hint}>{text}</td>"


def _paper(cell: Cell, column: Column, kind: str) -> str:
    classes = _classes(column, kind)
    tag = 'th scope="row"' if kind == "name" else "td"
    return f"<{tag}{classes}>{_escape(cell.paper or '')}</{tag[:2]}>"


def _picture(picture: Picture) -> str:
    return (
        "<figure><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{_data(picture.dark)}">'
        f'<img alt="{_escape(picture.alt)}" src="{_data(picture.light)}">'
        f"</picture><figcaption>{_escape(picture.caption)}</figcaption></figure>"
    )


def _example(view: ExampleView) -> str:
    facts = "".join(
        f"<div><dt>{_escape(term)}</dt><dd>{_escape(text)}</dd></div>"
        for term, text in view.facts
    )
    return (
        f'<article class="{view.tone}"><h3>{_escape(view.title)}</h3>'
        f'<img alt="{_escape(view.alt)}" src="{_data(view.strip)}">'
        f'<p class="outcome">{_escape(view.outcome)}</p><dl>{facts}</dl></article>'
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
