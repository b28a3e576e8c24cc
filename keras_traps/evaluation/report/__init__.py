"""The report of an evaluation: JSON for programs, Markdown and HTML for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from keras_traps._files import make_writable, write_atomically
from keras_traps.evaluation.report.blocks import Document, Examples, Picture
from keras_traps.evaluation.report.document import build_document
from keras_traps.evaluation.report.html import to_html
from keras_traps.evaluation.report.json_report import to_json
from keras_traps.evaluation.report.markdown import FIGURES, to_markdown
from keras_traps.evaluation.report.paper_tables import build_tables
from keras_traps.evaluation.results import Evaluation

__all__ = ["ReportPaths", "to_json", "write_report", "write_tables"]


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


def write_report(evaluation: Evaluation, directory: str | Path) -> ReportPaths:
    """Writes the report of an evaluation as JSON, Markdown and HTML.

    The same evaluation gives the same bytes. Each file appears whole or not at all; an
    older report in the directory is replaced.

    Args:
        evaluation: What was found.
        directory: Where to write `report.json`, `report.md`, `report.html` and
            `figures/`; made if it does not exist.

    Returns:
        The paths of what was written.

    Raises:
        OSError: If nothing can be written there; raised before any work is done.
    """
    directory = Path(directory)
    for folder in (directory, directory / FIGURES):
        make_writable(folder, name="directory")
    document = build_document(evaluation)
    figures = []
    for name, png in _figures(document):
        figures.append(directory / FIGURES / f"{name}.png")
        write_atomically(figures[-1], png)
    paths = ReportPaths(
        directory / "report.json",
        directory / "report.md",
        directory / "report.html",
        tuple(figures),
    )
    write_atomically(paths.json, to_json(evaluation).encode())
    write_atomically(paths.markdown, to_markdown(document).encode())
    write_atomically(paths.html, to_html(document).encode())
    return paths


def write_tables(
    evaluation: Evaluation, numbers: Sequence[int], directory: str | Path
) -> ReportPaths:
    """Writes the attractor paper's tables as JSON, Markdown and HTML.

    Args:
        evaluation: What was found.
        numbers: Which of Tables I to VI, as 1 to 6.
        directory: Where to write `tables.json`, `tables.md` and `tables.html`.

    Returns:
        The paths of what was written; there are no figures.

    Raises:
        OSError: If nothing can be written there.
    """
    directory = Path(directory)
    make_writable(directory, name="directory")
    document = build_tables(evaluation, numbers)
    json, markdown, html = (
        directory / f"tables.{suffix}" for suffix in ("json", "md", "html")
    )
    write_atomically(json, to_json(evaluation).encode())
    write_atomically(markdown, to_markdown(document).encode())
    write_atomically(html, to_html(document).encode())
    return ReportPaths(json, markdown, html, ())


def _figures(document: Document) -> list[tuple[str, bytes]]:
    found = []
    for section in document.sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                found.append((block.name, block.light))
            elif isinstance(block, Examples):
                found += [(view.name, view.strip) for view in block.views]
    return found
