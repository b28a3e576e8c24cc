"""Writes docs/results/README.md and copies.md from the JSON files beside them.

Example:
    python docs/make_results.py
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

_DOCS = Path(__file__).parent
_RESULTS = _DOCS / "results"
# What is shown of luring: the data, the table, the radius.
_LURES = (
    ("MNIST, luring in two runs", "luring_mnist", 0.3),
    ("MNIST, all trained alike", "luring_mnist_half_rate", 0.3),
    ("SVHN, small networks", "luring_svhn", 0.08),
    ("CIFAR-10, small networks", "luring_cifar10", 0.04),
)
_COMMANDS = {
    "leaderboard, MNIST": "leaderboard_mnist",
    "leaderboard, CIFAR-10": "leaderboard_cifar10",
    "tables, MNIST": "tables_mnist",
    "tables, CIFAR-10": "tables_cifar10",
}
_PAPERS_FPR, _LOW_FPR = 0.05, 0.005


# The pages, and the templates they are made of.
PAGES = {"README.md": "results.md.jinja", "copies.md": "copies.md.jinja"}


def page(name: str) -> str:
    """Returns a page."""
    found = {path.stem: json.loads(path.read_text()) for path in _files()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DOCS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "command": _command,
        "file": _file,
        "worst": lambda rows: max(rows, key=lambda row: row["through"]),
    }
    template = environment.get_template(PAGES[name])
    return template.render(
        found,
        attacks=_attacks(found["tables_mnist"], found["tables_cifar10"]),
        levels=("transfer", "labels", "scores", "gradients", "everything"),
        lures=_LURES,
        lured=lambda table, *cell: _lured(found[table], *cell),
        copied=_copies(found["copies"]),
        commands=[(told, found[name]) for told, name in _COMMANDS.items()],
    )


def _lured(
    table: Mapping[str, Any], variant: str, eps: float, threat: str = "luring"
) -> str:
    """Returns AC_M and DAC before MIM."""
    wanted = {"variant": variant, "eps": eps, "threat": threat, "attack": "MIM"}
    rows = [{**cell["outcome"], **cell} for cell in table["cells"]]
    if not any(row["variant"] == variant for row in rows):
        return "–"
    rates = _named(rows, **wanted)["rates"]
    return f"{percent(rates['ac_m'])}, {percent(rates['dac'])}"


def percent(rate: Mapping[str, Any] | float | None) -> str:
    """Returns a rate in per cent, a dash for none."""
    if rate is None:
        return "–"
    value = rate["value"] if isinstance(rate, Mapping) else rate
    return "–" if value is None else f"{100 * value:.1f}"


def _file(stem: str) -> str:
    """Returns the file to read: a page where there is one, else the numbers."""
    return f"{stem}.md" if (_RESULTS / f"{stem}.md").exists() else f"{stem}.json"


def _files() -> Iterable[Path]:
    return sorted(_RESULTS.glob("*.json"))


def _attacks(*tables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for each attack, with each table's numbers, the worst first."""
    known = [
        {row["attack"]: row for row in table["rows"] if row["variant"] == "paper"}
        for table in tables
    ]
    rows = [
        {"attack": name, "of": [_attack(table[name]) for table in known]}
        for name in known[0]
    ]
    return sorted(rows, key=_worst, reverse=True)


def _attack(row: Mapping[str, Any]) -> dict[str, Any]:
    through = {each["fpr"]: each["overall"] for each in row["detection"]}
    return {
        "fooled": row["success_trapped"],
        "high": through[_PAPERS_FPR],
        "low": through[_LOW_FPR],
        "paper": row["paper"].get("overall_asr"),
    }


def _copies(measured: Mapping[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """Returns what each attack leaves on a copy, and what else was done after PGD."""
    tables = [
        {
            (row["made on"], row.get("attack")): row
            for name in names
            for row in measured[name]["rows"]
        }
        for names in (["mnist_20"], ["cifar10_20", "cifar10_20_rays"])
    ]
    kinds = list(tables[0])
    return {
        "alone": [
            (a, [t.get((on, a)) for t in tables]) for on, a in kinds if on == "a copy"
        ],
        "other": [
            (
                on.removeprefix("a copy, then ").replace("averaged ", ""),
                [t.get((on, a)) for t in tables],
            )
            for on, a in kinds
            if a == "PGD" and "," in on
        ],
    }


def _worst(row: Mapping[str, Any]) -> tuple[float, ...]:
    order = ("high", "low", "fooled")
    return tuple(max(one[key]["value"] for one in row["of"]) for key in order)


def _command(found: Mapping[str, Any]) -> str:
    """Returns the command that made a file, which is no matter of interruptions."""
    told: str = found["provenance"]["command"]
    return told.replace(" --resume", "")


def _named(rows: Iterable[Mapping[str, Any]], **wanted: Any) -> Mapping[str, Any]:
    """Returns the one row that has some values."""
    (row,) = (
        row for row in rows if all(row[name] == value for name, value in wanted.items())
    )
    return row


if __name__ == "__main__":
    for name in PAGES:
        (_RESULTS / name).write_text(page(name), "utf-8")
