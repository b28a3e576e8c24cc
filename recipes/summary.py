"""Puts the reports of several message seeds into one table."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from keras_traps.commands.command_line import CommandLineError, Flags, refusing

# The paper's numbers, by the false-positive rate that they are for.
_PAPER = {0.05: "overall_asr", 0.005: "overall_asr_fpr0.5"}


def write_summary(arguments: Flags) -> None:
    """Reads the files of `--report` and writes the table to `--output`."""
    reports = [_read(path) for path in arguments.report]
    first, *others = (_shared(report) for report in reports)
    for what, value in first.items():
        if any(other[what] != value for other in others):
            raise CommandLineError(f"the reports are of several {what}")
    with refusing():
        arguments.output.write_text(summarize(reports), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    with refusing(f"{path} is no report.json of recipes/attractors.py"):
        try:
            report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            _shared(report)
        except (KeyError, TypeError) as error:
            raise ValueError(f"there is no {error}") from error
    return report


def _shared(report: dict[str, Any]) -> dict[str, Any]:
    """Returns what the table says once for all seeds."""
    facts, constants = report["provenance"], report["calibration"]
    weights = ", ".join(f"{weight:.4g}" for weight in constants["step_weights"])
    steps = ", ".join(f"{step:g}" for step in constants["steps"])
    return {
        "data sets": report["dataset"],
        "training images": facts["train_data"],
        "test images": facts["test_data"],
        "classifiers": facts["classifier"],
        "choices of constants": (
            f"A0 = {constants['a0']:.6g}, A1 = {constants['a1']:.6g}, "
            f"A2 = {constants['a2']:.4g}, weights {weights} for steps {steps}, "
            f"temperature {constants.get('temperature', 1.0):.3g}"
        ),
        "numbers of attacked images": facts["images attacked"],
        "sets of false-positive rates": {float(rate) for rate in report["thresholds"]},
    }


def summarize(reports: list[dict[str, Any]]) -> str:
    """Returns the tables as Markdown; `reports` holds what `report.json` does."""
    shared = _shared(reports[0])
    by_seed = {f"seed {report['provenance']['seed']}": report for report in reports}
    hashes = {
        "classifier": shared["classifiers"],
        "training images": shared["training images"],
        "test images": shared["test images"],
    }
    for seed, report in by_seed.items():
        hashes[f"decoder of {seed}"] = report["provenance"]["decoder"]
    parts = [
        f"# Attractors on {shared['data sets']}, {len(reports)} message seeds",
        "Rates in per cent. One set of constants for all seeds: "
        f"{shared['choices of constants']}.",
        "## Clean test images",
        _markdown(pd.DataFrame({seed: _clean(r) for seed, r in by_seed.items()})),
        "## Attacks with the paper's loss",
        f"{shared['numbers of attacked images']} images, all classified correctly by "
        "C. *Overall* is the share that M misclassifies unnoticed.",
        _markdown(_attacks(by_seed)),
        "## Commands",
        "\n".join(f"- `{report['provenance']['command']}`" for report in reports),
        "## Hashes",
        "\n".join(f"- {name}: `{digest}`" for name, digest in hashes.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _clean(report: dict[str, Any]) -> pd.Series:
    clean = report["clean"]
    rates = {
        "accuracy of C": clean["accuracy_classifier"],
        "accuracy of M": clean["accuracy_trapped"],
    }
    for fpr, rate in clean["false_positives"].items():
        rates[f"false positives at nominal {float(fpr):.1%}"] = rate
    return pd.Series({name: _percent(rate["value"]) for name, rate in rates.items()})


def _attacks(by_seed: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Returns a row for each attack of the first report, on M as the paper has it."""
    found = {}
    for seed, report in by_seed.items():
        rows = [row for row in report["rows"] if row["variant"] == "paper"]
        once = ["attack", "paper", ["success_classifier", "value"]]
        for fpr, part in pd.json_normalize(rows, "detection", once).groupby("fpr"):
            found[seed, fpr] = part.set_index("attack")
    seed = next(iter(by_seed))
    fprs = [float(fpr) for fpr in by_seed[seed]["thresholds"]]
    main = found[seed, max(fprs)]
    columns = {"fools C": main["success_classifier.value"].map(_percent)}
    for seed in by_seed:
        recovered = found[seed, max(fprs)]["recovered.value"]
        columns[f"recovered, {seed}"] = recovered.map(_percent)
    for fpr in fprs:
        head, name = f"overall at {fpr:.1%}", _PAPER.get(fpr)
        for seed in by_seed:
            overall = found[seed, fpr]["overall.value"]
            columns[f"{head}, {seed}"] = overall.map(_percent)
        papers = main["paper"].map(lambda paper, name=name: paper.get(name))
        columns[f"{head}, paper"] = papers.map(lambda p: _percent(p, 1, "–"))
    return pd.DataFrame(columns, main.index)


def _percent(share: float | None, digits: int = 2, nothing: str = "n/a") -> str:
    return nothing if share is None or pd.isna(share) else f"{100 * share:.{digits}f}"


def _markdown(frame: pd.DataFrame) -> str:
    heads = [frame.index.name or "", *frame.columns]
    rules = ["---", *["---:"] * len(frame.columns)]
    lines = [heads, rules, *frame.reset_index().to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
