"""The reports: JSON for programs, Markdown and HTML for people.

Here is what they show; how it is said is in `templates/pages.j2`. Each writes files of
its own name into a directory, which is made if it does not exist, and returns their
paths; an `OSError` tells that nothing can be written there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from keras_traps.attacks import PRESET_NOTES, PRESETS, Attack
from keras_traps.attractors import Trace
from keras_traps.evaluation import paper
from keras_traps.evaluation.detection import Comparison
from keras_traps.evaluation.evaluate import OUTCOMES, Evaluation
from keras_traps.evaluation.leaderboard import LEVELS, Leaderboard
from keras_traps.evaluation.metrics import ANY_LOSS, CleanVariant, luring_rates
from keras_traps.evaluation.pictures import (
    correlation_picture,
    p_value_picture,
    roc_picture,
    strip,
)
from keras_traps.evaluation.records import Run
from keras_traps.evaluation.render import (
    ReportPaths,
    class_name,
    number,
    plain,
    settings_text,
    write_page,
)
from keras_traps.evaluation.runner import WorstCase
from keras_traps.evaluation.subjects import INTEGRATED, THREATS
from keras_traps.luring.metrics import LuringMetrics
from keras_traps.rates import Rate

# The variants that a report sets beside the published loss.
_OTHERS = ("margin", "raw_sum", "rejecting", "adaptive")

# The attractor paper's names of what it has at each false-positive rate.
_AT_RATE = {
    paper.PAPER_FPR: {
        "detected": "detection",
        "recovered": "recovery",
        "overall": paper.OVERALL[paper.PAPER_FPR],
    },
    paper.LOW_FPR: {"overall": paper.OVERALL[paper.LOW_FPR]},
}
_LURING_TABLES = {"mnist": "Table 2", "svhn_cropped": "Table 3", "cifar10": "Table 4"}

_Row = dict[str, Any]


def write_report(evaluation: Evaluation, directory: str | Path) -> ReportPaths:
    """Writes the report of an evaluation, and its pictures into `figures/`."""
    found, shown = evaluation, _shown(evaluation)
    plots = {"roc": roc_picture(found), "correlations": correlation_picture(found)}
    figures = {name: plot.png for name, plot in plots.items() if plot}
    views: dict[str, list[_Row]] = {}
    for index, one in enumerate(found.examples, 1):
        name = f"example-{index:02d}"
        figures[name], factor = strip(one)
        told = {**one, "name": name, "strip": figures[name], "factor": factor}
        views.setdefault(one["outcome"], []).append(told)
    attacks = len({row["attack"] for row in found.rows})
    losses = [row for row in shown["rows"] if row["variant"] not in INTEGRATED]
    return write_page(
        directory,
        "report",
        title=f"Attractors on {found.dataset}",
        subtitle=f"{found.dataset}, {attacks} attack{'' if attacks == 1 else 's'}",
        content=_content(found),
        figures=figures,
        shown={
            **shown,
            "summary": _summary(found, shown["rows"]),
            "losses": _grouped(losses) if shown["other_losses"] else {},
            "plots": plots,
            "views": views,
            "outcomes": OUTCOMES.items(),
            "radii": _radii(shown["papers"]),
            "chart": _chart(shown["papers"], max(found.thresholds)),
            "missing": [
                name
                for name in PRESETS["table7_mnist"]
                if name not in {row["attack"] for row in shown["papers"]}
            ],
        },
    )


def write_tables(
    evaluation: Evaluation, numbers: Sequence[int], directory: str | Path
) -> ReportPaths:
    """Writes the attractor paper's Tables I to VI, of which `numbers` names some.

    The evaluation has to have the variants of `VARIANTS_OF` and, for Table IV, the
    false-positive rates of `RATES_OF`.
    """
    largest = max(evaluation.thresholds)
    return write_page(
        directory,
        "tables",
        title=f"The paper's tables on {evaluation.dataset}",
        subtitle="Rates in per cent with 95 % intervals; the paper's numbers below.",
        content=_content(evaluation),
        shown={
            **_shown(evaluation),
            "numbers": numbers,
            "fpr": paper.PAPER_FPR
            if paper.PAPER_FPR in evaluation.thresholds
            else largest,
            "largest": largest,
            "unbounded": ("BLB", "CW2", "EAD"),
        },
    )


def write_luring_tables(
    dataset: str,
    clean: Sequence[CleanVariant],
    runs: Sequence[Run],
    frame: pd.DataFrame,
    directory: str | Path,
    *,
    standing: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> ReportPaths:
    """Writes the luring paper's tables; attacks may be missing, and all may be.

    The frame is what `make_frame` makes of the runs, and `standing` is the
    `clean_accuracy` of M. The provenance is what a reader needs to make the tables
    again; the runs' commands and seeds are added.
    """
    parts = dict(iter(frame.groupby(["subject", "attack", "eps"]))) if runs else {}
    cells = [
        (run, luring_rates(parts[run.subject, run.attack, run.eps])) for run in runs
    ]
    ours = [cell for cell in cells if cell[0].about["threat"] == "luring"]
    told = [run.provenance for run in runs]
    commands = dict.fromkeys(one["command"] for one in told if "command" in one)
    facts = {
        **provenance,
        "attacks": {str(i): command for i, command in enumerate(commands, 1)},
        "attack seed": list({one["seed"]: None for one in told if "seed" in one}),
    }
    content = {
        "dataset": dataset,
        "standing": standing,
        "clean": clean,
        "cells": [{"run": run, "rates": rates} for run, rates in cells],
        "comparisons": paper.compare_luring(frame, runs),
        "provenance": facts,
    }
    return write_page(
        directory,
        "luring",
        title=f"Luring on {dataset}",
        subtitle="Rates in per cent with 95 % intervals; the paper's numbers below.",
        content=content,
        shown={
            **content,
            "runs": runs,
            "clean": [
                (row, paper.look_up("luring", "clean", dataset, row.variant))
                for row in clean
            ],
            "number": _LURING_TABLES.get(dataset, "The paper's attacks"),
            "tabled": _luring_part(dataset, ours, tabled=True),
            "others": _luring_part(dataset, ours, tabled=False),
            "compared": _compared(cells),
            "threats": [
                (threat, f"{words}.")
                for threat, words in THREATS.items()
                if any(run.about["threat"] == threat for run in runs)
            ],
            "notes": _luring_notes(runs),
            "names": paper.NAMES,
            "measures": paper.MEASURES,
        },
    )


def write_worst_case(
    found: WorstCase,
    attacks: Sequence[Attack],
    directory: str | Path,
    *,
    fpr: float | None,
    clean: Mapping[str, Any],
    warnings: Sequence[str],
    provenance: Mapping[str, Any],
) -> ReportPaths:
    """Writes the worst case over many attacks, in their order.

    The rate is the nominal false-positive rate of what watched, or `None`; `clean` is
    the classifier's `clean_accuracy`, `warnings` what `find_doubts` found.
    """
    settings = {attack.name: attack.settings() for attack in attacks}
    told = {
        "fpr": fpr,
        "clean": clean,
        "warnings": list(warnings),
        "attacks": settings,
        "notes": {attack.name: attack.note for attack in attacks if attack.note},
        "provenance": provenance,
    }
    return write_page(
        directory,
        "worst_case",
        title=f"Worst case per image: {found.subject}",
        subtitle=f"{found.overall.total:,} images, {len(found.tried)} attacks",
        content={**plain(found), **told},
        shown={"found": found, **told},
    )


def write_leaderboard(found: Leaderboard, directory: str | Path) -> ReportPaths:
    """Writes whom each contender stops, the worst rows first."""
    hidden = {"frame"}
    content = {k: v for k, v in vars(found).items() if k not in hidden}
    order = sorted(found.attacks, key=lambda row: -_lost(row))
    by_name = {
        row["contender"]: [one for one in order if one["contender"] == row["contender"]]
        for row in found.rows
    }
    present = {level for row in found.rows for level in row["levels"]}
    return write_page(
        directory,
        "leaderboard",
        title="Whom each defence stops",
        subtitle=f"{found.provenance['images attacked']:,} images, "
        f"{len(found.rows)} contenders. Rates in per cent with 95 % intervals.",
        content=content,
        shown={
            "found": found,
            "by_name": by_name,
            "levels": [level for level in LEVELS if level in present],
            "rates": sorted(
                {fpr for row in found.rows for fpr in row["false_positives"]},
                reverse=True,
            ),
        },
    )


def write_detectors(found: Comparison, directory: str | Path) -> ReportPaths:
    """Writes the attractor paper's Table III: what each detector sees."""
    attacked: dict[str, list[str]] = {}
    for row in found.rows:
        attacked.setdefault(row["attacked"], []).append(row["detector"])
    names = dict.fromkeys(a["attack"] for row in found.rows for a in row["attacks"])
    return write_page(
        directory,
        "detectors",
        title=f"Detectors on {found.dataset}",
        subtitle="Attackers who know of no detector. Rates in per cent with 95 % "
        "intervals; the paper's numbers below.",
        content=vars(found),
        shown={
            "found": found,
            "attacked": list(attacked.values()),
            "rates": list(found.rows[0]["false_positives"]),
            "overall": paper.OVERALL,
            "known": any(a["paper"] for row in found.rows for a in row["attacks"]),
            "by_attack": {
                name: [
                    next((a for a in row["attacks"] if a["attack"] == name), None)
                    for row in found.rows
                ]
                for name in names
            },
        },
    )


def write_trace(
    traced: Trace,
    directory: str | Path,
    *,
    images: Sequence[str],
    fpr: float,
    provenance: Mapping[str, Any],
) -> ReportPaths:
    """Writes which copy each of some suspect images was made on, if any was."""
    together = traced.together()
    rows = [
        {
            "image": name,
            "likeliest": each.copies[each.likeliest[0]].title,
            "p_value": each.p_values.min(),
            "named": [
                copy.title
                for copy, accused in zip(each.copies, each.accused(fpr), strict=True)
                if accused[0]
            ],
        }
        for name, each in [
            *((name, traced.take(slice(i, i + 1))) for i, name in enumerate(images)),
            ("all together", together),
        ]
    ]
    content = {
        "rows": rows,
        "fpr": fpr,
        "innocent_keys": len(traced.innocent),
        "copies": [copy.title for copy in traced.copies],
        "p_values": traced.p_values.T,
        "p_values_together": together.p_values[:, 0],
        "provenance": provenance,
    }
    plot = p_value_picture(traced, fpr)
    return write_page(
        directory,
        "trace",
        title="Which copy these images were made on",
        subtitle=f"{len(images):,} images, {len(traced.copies):,} copies, "
        f"{len(traced.innocent):,} keys that nobody has.",
        content=content,
        figures={"p_values": plot.png},
        shown={**content, "plot": plot},
    )


def _lost(row: _Row) -> float:
    """How many images an attack gets through with, at the largest rate."""
    rates = [*row["through"].values(), row["fooled"]]
    return rates[0].value or 0.0


def _content(found: Evaluation) -> dict[str, Any]:
    """What JSON holds: all but the arrays and the frame itself."""
    hidden = ("frame", "evidence", "clean_scores", "attacked_scores")
    fields = {name: value for name, value in vars(found).items() if name not in hidden}
    named = ("label", "predicted", "recovered")
    fields["examples"] = [
        {k: v for k, v in example.items() if k not in ("clean", "adversarial")}
        # Nothing was recovered where nothing was flagged.
        | {f"{k}_name": class_name(example[k], found.class_names) for k in named}
        for example in found.examples
    ]
    return fields


def _shown(found: Evaluation) -> dict[str, Any]:
    """What both pages of attractors show."""
    rows = [
        {**row, "at": {one["fpr"]: one for one in row["detection"]}}
        for row in found.rows
    ]
    integrated = _grouped([row for row in rows if row["variant"] in INTEGRATED])
    present = [
        one for one in paper.VARIANT_NAMES if one in {r["variant"] for r in rows}
    ]
    notes: dict[tuple[str, str], list[str]] = {}
    settings: dict[tuple[str, str], dict[str, float | None]] = {}
    for row in rows:
        if row["note"]:
            named = notes.setdefault((row["attack"], row["note"]), [])
            named.append(paper.VARIANT_NAMES[row["variant"]])
        place = (row["attack"], settings_text(row["settings"]))
        settings.setdefault(place, {})[row["variant"]] = row["mean_l2"]
    return {
        "found": found,
        "rows": rows,
        "papers": [row for row in rows if row["variant"] == "paper"],
        "integrated": [
            {**next(iter(each.values())), "by_variant": each}
            for each in integrated.values()
        ],
        "recoveries": [one for one in INTEGRATED if one in present],
        "other_losses": [one for one in _OTHERS if one in present],
        "attacked": present,
        "variants": paper.VARIANT_NAMES,
        "at_rate": _AT_RATE,
        "settings": settings,
        "notes": [
            (f"{name} ({', '.join(variants)})", note)
            for (name, note), variants in notes.items()
        ],
    }


def _radii(papers: Sequence[_Row]) -> str:
    """Says how far attacks within a ball go."""
    found = sorted({r["settings"]["eps"] for r in papers if "eps" in r["settings"]})
    return f"L∞ {' or '.join(map(number, found))}" if found else ""


def _chart(papers: Sequence[_Row], fpr: float) -> list[tuple[str, list[Rate]]]:
    """What each attack reaches on C, on M and past the analyzer, the worst first."""
    rows = [
        (
            row["attack"],
            [
                row["at"][fpr]["overall"],
                row["success_trapped"],
                row["success_classifier"],
            ],
        )
        for row in papers
    ]
    rows.sort(key=lambda row: [rate.value or 0.0 for rate in row[1]], reverse=True)
    return [(name, rates[::-1]) for name, rates in rows]


def _grouped(rows: Sequence[_Row]) -> dict[str, dict[str, _Row]]:
    """Rows by attack and variant."""
    grouped: dict[str, dict[str, _Row]] = {}
    for row in rows:
        grouped.setdefault(row["attack"], {})[row["variant"]] = row
    return grouped


def _summary(found: Evaluation, rows: Sequence[_Row]) -> dict[str, Any]:
    """The numbers of the summary's sentences and tiles."""
    fprs = sorted(found.thresholds, reverse=True)
    worst = {case["variant"]: case for case in found.worst_cases}
    false = sorted(found.clean["false_positives"].items(), reverse=True)

    def spread(variants: Sequence[str], of: Callable[[_Row], Rate]) -> Any:
        """The median and the extremes of a rate over attacks, and whose these are."""
        chosen = [row for row in rows if row["variant"] in variants]
        rates = pd.Series([of(row).value or 0.0 for row in chosen], dtype=float)
        names = pd.Series([row["attack"] for row in chosen])
        if rates.empty:
            return None
        return {
            "count": len(rates),
            "median": rates.median(),
            "low": rates.min(),
            "weakest": names[rates.idxmin()],
            "top": rates.max(),
            "names": list(names[rates == rates.max()].unique()),
        }

    def unseen(variants: Sequence[str], fpr: float) -> Any:
        return spread(variants, lambda row: row["at"][fpr]["overall"])

    passed = {fpr: unseen(("paper",), fpr) for fpr in fprs}
    return {
        "fprs": fprs,
        "fooled": spread(("paper",), lambda row: row["success_classifier"]),
        "alone": spread(("paper",), lambda row: row["success_trapped"]),
        "passed": {fpr: one for fpr, one in passed.items() if one},
        "knowing": unseen(("adaptive",), fprs[0]),
        "integrated": spread(INTEGRATED, lambda row: row["success_trapped"]),
        # Who may try everything tries every loss.
        "worst": worst.get(ANY_LOSS, worst.get("paper")),
        # By rate, whether more are flagged than chance explains.
        "surprising": {
            fpr: fpr < rate.interval[0]
            for fpr, rate in false
            if not rate.interval[0] <= fpr <= rate.interval[1]
        },
    }


_Measured = tuple[Run, LuringMetrics]


def _luring_part(
    dataset: str, cells: Sequence[_Measured], *, tabled: bool
) -> dict[str, Any] | None:
    """Of Tables 2 to 4 or beside them: by attack and radius, what each M∘P made."""
    grouped: dict[tuple[str, float], dict[str, _Measured]] = {}
    for cell in cells:
        run = cell[0]
        if (run.attack in paper.TABLED) == tabled:
            grouped.setdefault((run.attack, run.eps), {})[run.about["variant"]] = cell
    seen = {variant for each in grouped.values() for variant in each}
    variants = [name for name in paper.NAMES if name in seen]
    rows: list[dict[str, Any]] = []
    for place, each in grouped.items():
        table = ("luring", "attacks", dataset, place[0], f"{place[1]:g}")
        counts = {paper.NAMES[v]: each[v][0].images for v in variants if v in each}
        told = [f"{name} {count}" for name, count in counts.items()]
        rows.append(
            {
                "name": f"{place[0]} {place[1]:g}",
                "rates": {variant: cell[1]._asdict() for variant, cell in each.items()},
                "known": {v: paper.look_up(*table, v) for v in variants},
                "images": ", ".join(told)
                if len({*counts.values()}) > 1
                else next(iter(counts.values())),
            }
        )
    known = any(numbers for row in rows for numbers in row["known"].values())
    return {"variants": variants, "rows": rows, "known": known} if rows else None


def _compared(cells: Sequence[_Measured]) -> list[_Measured]:
    """Attackers that know more beside the paper's, where there are both."""
    variants, threats = list(paper.NAMES), [*map(str, THREATS)]

    def place(cell: _Measured) -> tuple[int, float]:
        return variants.index(cell[0].about["variant"]), cell[0].eps

    there = {place(cell) for cell in cells if cell[0].about["threat"] != "luring"}
    return sorted(
        (cell for cell in cells if place(cell) in there),
        key=lambda cell: (*place(cell), threats.index(cell[0].about["threat"])),
    )


def _luring_notes(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What is to be said of presets, with the steps made instead, and of attacks."""
    notes: dict[str, str] = {}
    steps: dict[str, set[Any]] = {}
    for run in runs:
        preset = run.provenance.get("preset")
        if preset in PRESET_NOTES:
            own = PRESETS[preset].get(run.attack, {}).get("nb_iter")
            made = {run.settings.get("nb_iter", own)} if own else set()
            steps.setdefault(preset, set()).update(made - {own})
    for preset, others in steps.items():
        listed = " or ".join(map(number, sorted(others)))
        instead = f" Here `--nb_iter` made it {listed} steps." if others else ""
        notes[preset] = PRESET_NOTES[preset] + instead
    return [*notes.items(), *{run.attack: run.note for run in runs if run.note}.items()]
