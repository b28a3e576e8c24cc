import dataclasses
import re

import pytest

from keras_traps.evaluation.report.blocks import Document
from keras_traps.evaluation.report.document import build_document
from keras_traps.evaluation.report.markdown import to_markdown
from keras_traps.evaluation.results import Evaluation

from .conftest import KINDS, without_plots


def columns(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_every_table_line_has_as_many_cells_as_its_head(evaluation: Evaluation) -> None:
    evil = dataclasses.replace(evaluation.rows[0], attack="a|b`c\n*d*", note="x|y")
    text = to_markdown(
        build_document(
            dataclasses.replace(
                without_plots(evaluation),
                provenance={"a|b": "c|d `e`\nf"},
                rows=(evil, *evaluation.rows[1:]),
            )
        )
    )
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)

    assert len(blocks) >= 8
    for block in blocks:
        assert len({columns(line) for line in block.splitlines()}) == 1
        assert re.fullmatch(r"\|( -{3}:? \|)+", block.splitlines()[1])


def test_markup_in_names_is_text(evaluation: Evaluation) -> None:
    evil = dataclasses.replace(
        evaluation, title="<script>alert(1)</script>", warnings=("[a](b) <img src=x>",)
    )
    text = to_markdown(build_document(without_plots(evil)))

    assert "<script" not in text
    assert "<img" not in text
    assert r"\[a\](b) &lt;img src=x&gt;" in text


@pytest.mark.parametrize("attack", KINDS)
def test_every_attack_has_its_rows(document: Document, attack: str) -> None:
    text = to_markdown(document)

    assert len(re.findall(rf"^\| {attack} \|", text, re.MULTILINE)) == 4


def test_the_papers_numbers_stand_under_ours(document: Document) -> None:
    lines = to_markdown(document).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| OM | UA |"))

    assert "80.0 (67.0–88.8)" in lines[at]
    assert lines[at + 1].startswith("| *paper* |  | *100.0* | *97.0* | *87.6* |")


def test_sections_stand_in_the_order_of_reading(document: Document) -> None:
    text = to_markdown(document)

    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Summary",
        "Provenance",
        "Clean images",
        "Attacks on the trapped model",
        "Attacks on the integrated model",
        "How far this rests on the attacker's loss",
        "Worst case per image",
        "Calibration and thresholds",
        "Warnings, notes and settings",
        "Pictures",
    ]
