"""Facts about the table over several keys."""

import json
from pathlib import Path
from typing import Any

import attractors
import pytest
from summary import summarize

from keras_traps.commands.command_line import CommandLineError

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture
def reports() -> list[dict[str, Any]]:
    """The published reports of three keys."""
    paths = [RESULTS / f"report_mnist_key{key}.json" for key in range(3)]
    return [json.loads(path.read_text("utf-8")) for path in paths]


def run(reports: list[Any], folder: Path) -> str:
    words = []
    for place, report in enumerate(reports):
        path = folder / f"{place}.json"
        path.write_text(report if isinstance(report, str) else json.dumps(report))
        words.append(f"--report={path}")
    output = folder / "table.md"
    attractors.main(["summary", *words, f"--output={output}"])
    return output.read_text("utf-8")


def test_the_published_table_is_that_of_the_published_reports(
    reports: list[dict[str, Any]], tmp_path: Path
) -> None:
    published = (RESULTS / "keys_mnist.md").read_text("utf-8")
    assert run(reports, tmp_path) == published


def test_what_is_not_known_is_a_dash_and_what_was_not_tried_is_said(
    reports: list[dict[str, Any]],
) -> None:
    row = next(row for row in reports[0]["rows"] if row["variant"] == "paper")
    row["paper"] = {}
    for found in row["detection"]:
        found["recovered"]["value"] = None
    told = summarize(reports[:1])
    (line,) = [line for line in told.splitlines() if line.startswith("| FGSM |")]
    fooled = 100 * row["success_classifier"]["value"]
    assert line == f"| FGSM | {fooled:.2f} | n/a | 0.00 | – | 0.00 | – |"


@pytest.mark.parametrize(
    ("part", "name", "value", "what"),
    [
        ("calibration", "a2", 0.75, "choices of constants"),
        ("provenance", "classifier", "other", "classifiers"),
        ("thresholds", "0.01", {}, "sets of false-positive rates"),
    ],
)
def test_reports_of_what_the_table_says_once_are_refused(
    part: str,
    name: str,
    value: Any,
    what: str,
    reports: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    reports[1][part][name] = value
    with pytest.raises(CommandLineError, match=f"the reports are of several {what}"):
        run(reports, tmp_path)
    assert not (tmp_path / "table.md").exists()


def test_the_same_key_twice_is_refused(
    reports: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(CommandLineError, match="the same decoder"):
        run([reports[0], reports[0]], tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
def test_a_file_that_is_no_report_is_told(text: str, tmp_path: Path) -> None:
    with pytest.raises(CommandLineError, match=r"0\.json is no report\.json"):
        run([text], tmp_path)
