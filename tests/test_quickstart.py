"""The quick start's notebook, run cell by cell, prints what it shows."""

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


def printed(notebook: Any) -> str:
    return "".join(
        told.text
        for cell in notebook.cells
        for told in cell.get("outputs", ())
        if told.get("name") == "stdout"
    )


# Random numbers of another processor may move a share by an image or two.
def shares(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"(\d+)%", text)]


@pytest.mark.slow
def test_it_prints_what_it_shows(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    shown = printed(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=place).execute()
    found = printed(notebook)
    assert re.sub(r"\d+%", "", found) == re.sub(r"\d+%", "", shown)
    assert shares(found) == pytest.approx(shares(shown), abs=3)
