"""Puts the reports of several message seeds into one table.

Example:
    python recipes/summarize_attractors.py --output=docs/results/attractors_mnist.md \
        --report=runs/mnist_seed0/report/report.json \
        --report=runs/mnist_seed1/report/report.json
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from keras_traps._files import write_atomically

Report = dict[str, Any]

# The paper's numbers, by the false-positive rate that they are for.
_PAPER_NAMES = {0.05: "overall_asr", 0.005: "overall_asr_fpr0.5"}


def _constants(report: Report) -> str:
    found = report["calibration"]
    weights = ", ".join(f"{weight:.4g}" for weight in found["step_weights"])
    steps = ", ".join(f"{step:g}" for step in found["steps"])
    border = found.get("border_weight", 1.0)
    return (
        f"A0 = {found['a0']:.6g}, A1 = {found['a1']:.6g}, A2 = {found['a2']:.4g}, "
        f"weights {weights} for steps {steps}, "
        f"temperature {found.get('temperature', 1.0):.3g}"
        + (f", border {border:.3g}" if border != 1 else "")
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


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    flags.DEFINE_multi_string(
        "report",
        [],
        "A report.json of recipes/attractors.py; give it once for each seed.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "The Markdown file to write.", flag_values=values
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Reads the reports and writes the table.

    Args:
        argv: The command line; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong, or the reports differ in what
            the table says once for all seeds: data, classifier, constants, number of
            attacked images, false-positive rates.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {' '.join(argv[1:])}")
    if not values.report or values.output is None:
        raise app.UsageError("--report and --output are required.")
    reports = [
        json.loads(Path(path).read_text(encoding="utf-8")) for path in values.report
    ]
    for what, find in _SHARED.items():
        if len({find(report) for report in reports}) > 1:
            raise app.UsageError(f"The reports are of several {what}.")
    write_atomically(Path(values.output), summarize(reports).encode())


def summarize(reports: Sequence[Report]) -> str:
    """Makes the tables.

    Args:
        reports: What `report.json` holds, one per seed.

    Returns:
        Markdown.
    """
    seeds = [str(report["provenance"]["seed"]) for report in reports]
    lines = [
        f"# Attractors on {reports[0]['dataset']}, {len(seeds)} message seeds",
        "",
        "Rates in per cent. One set of constants for all seeds: "
        f"{_constants(reports[0])}.",
        "",
        "## Clean test images",
        "",
        *_table(
            ["", *(f"seed {seed}" for seed in seeds)],
            _clean_rows(reports),
        ),
        "",
        "## Attacks with the paper's loss",
        "",
        f"{reports[0]['provenance']['images attacked']} images, all classified "
        "correctly by C. *Overall* is the share that M misclassifies unnoticed.",
        "",
        *_table(
            [
                "attack",
                "fools C",
                *(f"recovered, seed {seed}" for seed in seeds),
                *(
                    f"overall at {float(fpr):.1%}, {whose}"
                    for fpr in reports[0]["thresholds"]
                    for whose in (*(f"seed {seed}" for seed in seeds), "paper")
                ),
            ],
            _attack_rows(reports),
        ),
        "",
        "## Commands",
        "",
        *(f"- `{report['provenance']['command']}`" for report in reports),
        "",
        "## Hashes",
        "",
        f"- classifier: `{reports[0]['provenance']['classifier']}`",
        f"- training images: `{reports[0]['provenance']['train_data']}`",
        f"- test images: `{reports[0]['provenance']['test_data']}`",
        *(
            f"- decoder of seed {seed}: `{report['provenance']['decoder']}`"
            for seed, report in zip(seeds, reports, strict=True)
        ),
        "",
    ]
    return "\n".join(lines)


def _clean_rows(reports: Sequence[Report]) -> Iterable[list[str]]:
    clean = [report["clean"] for report in reports]
    yield ["accuracy of C", *(_percent(c["accuracy_classifier"]) for c in clean)]
    yield ["accuracy of M", *(_percent(c["accuracy_trapped"]) for c in clean)]
    for fpr in clean[0]["false_positives"]:
        yield [
            f"false positives at nominal {float(fpr):.1%}",
            *(_percent(c["false_positives"][fpr]) for c in clean),
        ]


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


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
