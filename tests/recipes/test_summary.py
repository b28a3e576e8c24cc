"""Facts about the table over several message seeds."""

import copy
import json
from pathlib import Path
from typing import Any

import attractors
import pytest
from command_line import CommandLineError
from summary import summarize


def rate(count: int, total: int) -> dict[str, Any]:
    return {
        "count": count,
        "total": total,
        "value": count / total if total else None,
        "interval": None,
    }


def report(seed: int) -> dict[str, Any]:
    return {
        "dataset": "mnist",
        "provenance": {
            "command": f"python recipes/attractors.py --seed={seed}",
            "seed": seed,
            "images attacked": 200,
            "classifier": "c",
            "train_data": "t",
            "test_data": "u",
            "decoder": f"d{seed}",
        },
        "calibration": {
            "a0": -0.25,
            "a1": 3.0,
            "a2": 0.5,
            "step_weights": [4.0, 1.0],
            "steps": [3.0, 128.0],
        },
        "thresholds": {"0.05": {}, "0.005": {}},
        "clean": {
            "accuracy_classifier": rate(198, 200),
            "accuracy_trapped": rate(197 - seed, 200),
            "false_positives": {"0.05": rate(9, 200), "0.005": rate(1, 200)},
        },
        "rows": [
            {
                "attack": "FGSM",
                "variant": "paper",
                "success_classifier": rate(160, 200),
                "detection": [
                    {"fpr": 0.05, "recovered": rate(0, 0), "overall": rate(1, 200)},
                    {"fpr": 0.005, "recovered": rate(9, 10), "overall": rate(3, 200)},
                ],
                "paper": {"overall_asr": 0.125},
            },
            {"attack": "FGSM", "variant": "margin"},
        ],
    }


def write(folder: Path, reports: list[dict[str, Any]]) -> list[str]:
    words = []
    for index, content in enumerate(reports):
        path = folder / f"{index}.json"
        path.write_text(json.dumps(content))
        words.append(f"--report={path}")
    return words


def run(words: list[str]) -> None:
    attractors.main(["summary", *words])


def test_each_seed_has_its_columns_and_the_paper_stands_beside(tmp_path: Path) -> None:
    output = tmp_path / "table.md"
    run([*write(tmp_path, [report(0), report(1)]), f"--output={output}"])
    text = output.read_text()
    assert "| accuracy of M | 98.50 | 98.00 |" in text
    assert "| FGSM | 80.00 | n/a | n/a | 0.50 | 0.50 | 12.5 | 1.50 | 1.50 | – |" in text
    assert "decoder of seed 1: `d1`" in text
    assert "A2 = 0.5, weights 4, 1 for steps 3, 128" in text


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (("dataset",), "cifar10", "data sets"),
        (("calibration", "a2"), 0.75, "choices of constants"),
        (("provenance", "classifier"), "other", "classifiers"),
        (("provenance", "test_data"), "other", "test images"),
        (("provenance", "train_data"), "other", "training images"),
        (("provenance", "images attacked"), 100, "numbers of attacked images"),
        (("thresholds",), {"0.05": {}, "0.01": {}}, "sets of false-positive rates"),
    ],
)
def test_reports_of_what_the_table_says_once_are_refused(
    place: tuple[str, ...], value: Any, what: str, tmp_path: Path
) -> None:
    other = copy.deepcopy(report(1))
    *folders, name = place
    inner = other
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    with pytest.raises(CommandLineError, match=f"the reports are of several {what}"):
        run([*write(tmp_path, [report(0), other]), f"--output={tmp_path / 'x.md'}"])
    assert not (tmp_path / "x.md").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
def test_a_file_that_is_no_report_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(CommandLineError, match=r"some\.json is no report\.json"):
        run([f"--report={path}", f"--output={tmp_path / 'x.md'}"])


def test_rates_in_another_order_stand_under_their_heads() -> None:
    expected = summarize([report(0), report(1)])
    other = report(1)
    other["thresholds"] = dict(reversed(other["thresholds"].items()))
    other["rows"][0]["detection"].reverse()
    assert summarize([report(0), other]) == expected

    # Where the first report has the order, its heads do.
    text = summarize([other, report(0)])
    assert "overall at 0.5%, seed 1 | overall at 0.5%, seed 0 | overall at 0.5%, p" in (
        text
    )
    assert "| FGSM | 80.00 | n/a | n/a | 1.50 | 1.50 | – | 0.50 | 0.50 | 12.5 |" in text


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_the_published_table_is_that_of_the_published_reports(dataset: str) -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    reports = [
        json.loads((results / f"{dataset}_seed{seed}" / "report.json").read_text())
        for seed in range(3)
    ]
    published = (results / f"attractors_{dataset}.md").read_text("utf-8")
    assert summarize(reports) == published
