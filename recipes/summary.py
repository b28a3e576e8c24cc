"""Puts the reports of several message seeds into one table."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from command_line import CommandLineError, refusing

Report = dict[str, Any]

# The paper's numbers, by the false-positive rate that they are for.
_PAPER_NAMES = {0.05: "overall_asr", 0.005: "overall_asr_fpr0.5"}


def _constants(report: Report) -> str:
    found = report["calibration"]
    weights = ", ".join(f"{weight:.4g}" for weight in found["step_weights"])
    steps = ", ".join(f"{step:g}" for step in found["steps"])
    return (
        f"A0 = {found['a0']:.6g}, A1 = {found['a1']:.6g}, A2 = {found['a2']:.4g}, "
        f"weights {weights} for steps {steps}, "
        f"temperature {found.get('temperature', 1.0):.3g}"
    )


# What the table says once for all seeds.
_SHARED: dict[str, Callable[[Report], Any]] = {
    "data sets": lambda report: report["dataset"],
    "training images": lambda report: report["provenance"]["train_data"],
    "test images": lambda report: report["provenance"]["test_data"],
    "classifiers": lambda report: report["provenance"]["classifier"],
    "choices of constants": _constants,
    "numbers of attacked images": lambda r: r["provenance"]["images attacked"],
    "sets of false-positive rates": lambda r: frozenset(map(float, r["thresholds"])),
}


def write_summary(arguments: argparse.Namespace) -> None:
    """Reads the files of `--report` and writes the table to `--output`."""
    reports = [_read(path) for path in arguments.report]
    for what, find in _SHARED.items():
        if len({find(report) for report in reports}) > 1:
            raise CommandLineError(f"the reports are of several {what}")
    with refusing():
        arguments.output.write_text(summarize(reports), encoding="utf-8")


def _read(path: Path) -> Report:
    with refusing(f"{path} is no report.json of recipes/attractors.py"):
        try:
            report: Report = json.loads(path.read_text(encoding="utf-8"))
            for find in _SHARED.values():
                find(report)
        except (KeyError, TypeError) as error:
            raise ValueError(f"there is no {error}") from error
    return report


def summarize(reports: Sequence[Report]) -> str:
    """Returns the tables as Markdown; `reports` holds what `report.json` does."""
    facts = [report["provenance"] for report in reports]
    seeds = [f"seed {each['seed']}" for each in facts]
    columns = [
        f"overall at {float(fpr):.1%}, {whose}"
        for fpr in reports[0]["thresholds"]
        for whose in (*seeds, "paper")
    ]
    recovered = [f"recovered, {seed}" for seed in seeds]
    hashes = {
        "classifier": facts[0]["classifier"],
        "training images": facts[0]["train_data"],
        "test images": facts[0]["test_data"],
        **{
            f"decoder of {seed}": each["decoder"]
            for seed, each in zip(seeds, facts, strict=True)
        },
    }
    lines = [
        f"# Attractors on {reports[0]['dataset']}, {len(seeds)} message seeds",
        "",
        "Rates in per cent. One set of constants for all seeds: "
        f"{_constants(reports[0])}.",
        "",
        "## Clean test images",
        "",
        *_table(["", *seeds], _clean_rows(reports)),
        "",
        "## Attacks with the paper's loss",
        "",
        f"{facts[0]['images attacked']} images, all classified correctly by C. "
        "*Overall* is the share that M misclassifies unnoticed.",
        "",
        *_table(["attack", "fools C", *recovered, *columns], _attack_rows(reports)),
        "",
        "## Commands",
        "",
        *(f"- `{each['command']}`" for each in facts),
        "",
        "## Hashes",
        "",
        *(f"- {name}: `{digest}`" for name, digest in hashes.items()),
        "",
    ]
    return "\n".join(lines)


def _clean_rows(reports: Sequence[Report]) -> Iterable[list[str]]:
    clean = [report["clean"] for report in reports]
    yield ["accuracy of C", *(_percent(c["accuracy_classifier"]) for c in clean)]
    yield ["accuracy of M", *(_percent(c["accuracy_trapped"]) for c in clean)]
    for fpr in clean[0]["false_positives"]:
        rates = [_percent(c["false_positives"][fpr]) for c in clean]
        yield [f"false positives at nominal {float(fpr):.1%}", *rates]


def _attack_rows(reports: Sequence[Report]) -> Iterable[list[str]]:
    by_report = [
        {row["attack"]: row for row in report["rows"] if row["variant"] == "paper"}
        for report in reports
    ]
    rates = [float(fpr) for fpr in reports[0]["thresholds"]]
    for attack, first in by_report[0].items():
        rows = [rows[attack] for rows in by_report]
        cells = [attack, _percent(first["success_classifier"])]
        cells += [_percent(_at(row, max(rates))["recovered"]) for row in rows]
        for fpr in rates:
            cells += [_percent(_at(row, fpr)["overall"]) for row in rows]
            paper = first["paper"].get(_PAPER_NAMES.get(fpr))
            cells.append("–" if paper is None else f"{100 * paper:.1f}")
        yield cells


def _at(row: Report, fpr: float) -> Report:
    """What a row found at a false-positive rate; reports have them in any order."""
    return next(found for found in row["detection"] if found["fpr"] == fpr)


def _percent(rate: Report) -> str:
    return "n/a" if rate["value"] is None else f"{100 * rate['value']:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' + ' ---: |' * (len(header) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
