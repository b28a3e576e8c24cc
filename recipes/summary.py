"""Puts the reports of several keys into one table."""

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
    if len({_name(report) for report in reports}) < len(reports):
        raise CommandLineError("two of the reports are of the same decoder")
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


def _name(report: dict[str, Any]) -> str:
    """Returns what tells a report's key from others, without telling the key."""
    return f"decoder {report['provenance']['decoder'][:6]}"


def _shared(report: dict[str, Any]) -> dict[str, Any]:
    """Returns what the table says once for all keys."""
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
            f"messages {constants['messages']}"
        ),
        "numbers of attacked images": facts["images attacked"],
        "sets of false-positive rates": {float(rate) for rate in report["thresholds"]},
    }


def summarize(reports: list[dict[str, Any]]) -> str:
    """Returns the tables as Markdown; `reports` holds what `report.json` does."""
    shared = _shared(reports[0])
    by_key = {_name(report): report for report in reports}
    hashes = {
        "classifier": shared["classifiers"],
        "training images": shared["training images"],
        "test images": shared["test images"],
    }
    for key, report in by_key.items():
        hashes[key] = report["provenance"]["decoder"]
    parts = [
        f"# Attractors on {shared['data sets']}, {len(reports)} keys",
        "Rates in per cent. One set of constants for all keys: "
        f"{shared['choices of constants']}.",
        "## Clean test images",
        _markdown(pd.DataFrame({key: _clean(r) for key, r in by_key.items()})),
        "## Attacks with the paper's loss",
        f"{shared['numbers of attacked images']} images, all classified correctly by "
        "C. *Overall* is the share that M misclassifies unnoticed.",
        _markdown(_attacks(by_key)),
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


def _attacks(by_key: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Returns a row for each attack of the first report, on M as the paper has it."""
    found = {}
    for key, report in by_key.items():
        rows = [row for row in report["rows"] if row["variant"] == "paper"]
        once = ["attack", "paper", ["success_classifier", "value"]]
        for fpr, part in pd.json_normalize(rows, "detection", once).groupby("fpr"):
            found[key, fpr] = part.set_index("attack")
    key = next(iter(by_key))
    fprs = [float(fpr) for fpr in by_key[key]["thresholds"]]
    main = found[key, max(fprs)]
    columns = {"fools C": main["success_classifier.value"].map(_percent)}
    for key in by_key:
        recovered = found[key, max(fprs)]["recovered.value"]
        columns[f"recovered, {key}"] = recovered.map(_percent)
    for fpr in fprs:
        head, name = f"overall at {fpr:.1%}", _PAPER.get(fpr)
        for key in by_key:
            overall = found[key, fpr]["overall.value"]
            columns[f"{head}, {key}"] = overall.map(_percent)
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
