"""The papers' own numbers, which of their tables there are, and what each needs.

Reference:
    Zhang, Chang and Lee, Detection and recovery of adversarial attacks with
    injected attractors, 2020.
    Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, 2020.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from keras_traps.attacks import LURING_SWEEPS
from keras_traps.evaluation.metrics import LEVEL, Pair, compare
from keras_traps.evaluation.records import Run
from keras_traps.evaluation.subjects import INTEGRATED, Variant

PAPER_FPR, LOW_FPR = 0.05, 0.005
"""The false-positive rate of the attractor paper's tables, and of a part of IV."""

VARIANTS_OF: dict[int, tuple[Variant, ...]] = {
    1: ("paper",),
    2: (),
    3: ("paper",),
    4: ("paper",),
    5: INTEGRATED,
    6: INTEGRATED,
}
"""Which variants of the trapped model a table is made of, by its number."""

RATES_OF: dict[int, tuple[float, ...]] = {
    **dict.fromkeys(VARIANTS_OF, (PAPER_FPR,)),
    2: (),
    4: (PAPER_FPR, LOW_FPR),
}
"""Which nominal false-positive rates a table of the paper is for, by its number."""

VARIANT_NAMES: dict[str, str] = {
    "paper": "published loss",
    "margin": "margin loss",
    "raw_sum": "before normalisation",
    "integrated": "integrated model",
    "integrated_label": "integrated, hard label",
    "any_loss": "any of these losses",
}
"""What a report calls a variant of the trapped model."""

NAMES = {
    "target": "M",
    "surrogate": "An attacker's own M",
    "stack": "Stack",
    "auto": "Auto",
    "ce": "C_E",
    "luring": "Luring",
}
"""What the luring paper calls the variants of M∘P."""

BASELINES = ("stack", "auto", "ce")

MEASURES = {"ac_mop": "AC_M∘P", "ac_m": "AC_M", "dac": "DAC"}
"""What luring's Tables 2 to 4 show, by its field in `LuringMetrics`."""

TABLED = ("FGSM", "MIM", "DIM", "MIM-TI", "DIM-TI")
"""The attacks of luring's Tables 2 to 4; the paper's figures have others too."""

UNBOUNDED = ("BLB", "CW2", "EAD")
"""The attacks of Table VI, which have no ball."""


def paper_row(attack: str, dataset: str) -> dict[str, float | None]:
    """Looks up one attack in the attractor paper, Tables I and III to VI."""
    return dict(_read("attractors")["attacks"].get(attack, {}).get(dataset, {}))


def paper_clean(dataset: str) -> tuple[float | None, float | None]:
    """Looks up the attractor paper's accuracy on clean test images (Table II)."""
    row = _read("attractors")["clean"].get(dataset, {})
    return row.get("original"), row.get("attractors")


def luring_cell(
    dataset: str, attack: str, eps: float, variant: str
) -> dict[str, float]:
    """Looks up what is legible of the luring paper's Tables 2 to 4."""
    rows = _read("luring")["attacks"].get(dataset, {}).get(attack, {})
    return _legible(rows.get(f"{eps:g}", {}).get(variant, {}))


def luring_clean(dataset: str, variant: str) -> dict[str, float]:
    """Looks up the luring paper's accuracy on clean test images (Table 1)."""
    return _legible(_read("luring")["clean"].get(dataset, {}).get(variant, {}))


def _legible(row: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None}


@functools.cache
def _read(paper: str) -> dict[str, Any]:
    package = importlib.resources.files("keras_traps.evaluation")
    text = (package / f"{paper}_paper.json").read_text("utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def compare_luring(frame: pd.DataFrame, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Counts in how many cells of Tables 2 to 4 luring is above each baseline."""
    ours = {
        (run.about["variant"], run.attack, run.eps): run
        for run in runs
        if run.about.get("threat") == "luring" and run.attack in TABLED
    }
    parts = {
        key: part.set_index("id")
        for key, part in (frame.groupby(["subject", "attack", "eps"]) if ours else ())
    }
    found: list[dict[str, Any]] = []
    for baseline in BASELINES:
        shared = {
            (attack, eps): (run, ours[baseline, attack, eps])
            for (variant, attack, eps), run in ours.items()
            if variant == "luring" and (baseline, attack, eps) in ours
        }
        alike = {k: both for k, both in shared.items() if _alike(*both)}
        for what in ("ac_m", "dac") if alike else ():
            goods = {
                place: [_good(parts[run.subject, *place], what) for run in both]
                for place, both in alike.items()
            }
            means = {k: [float(each.mean()) for each in v] for k, v in goods.items()}
            missed = [(*k, *m) for k, m in means.items() if not m[0] > m[1]]
            found.append(
                {
                    "baseline": baseline,
                    "measure": what,
                    "above": len(alike) - len(missed),
                    "cells": len(alike),
                    "missed": missed,
                    "uneven": [
                        (*place, one.images, other.images)
                        for place, (one, other) in alike.items()
                        if one.images != other.images
                    ],
                    "unlike": [place for place in shared if place not in alike],
                    "paired": _count_pairs([compare(*both) for both in goods.values()]),
                }
            )
    return found


def _alike(*runs: Run) -> bool:
    """Whether runs differ in nothing but what a sweep of the same settings found."""
    found = {
        name for change in LURING_SWEEPS.get(runs[0].attack, []) for name in change
    }
    asked = [
        (
            [trial.settings for trial in run.trials],
            {k: v for k, v in run.settings.items() if not (run.trials and k in found)},
        )
        for run in runs
    ]
    return asked[0] == asked[1]


def _good(part: pd.DataFrame, what: str) -> pd.Series:
    return part["defended"] if what == "dac" else part["target"] == part["label"]


def _count_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    sure = [one for one in pairs if one.p_value < LEVEL]
    sizes = [one.images for one in pairs]
    return {
        "images": (min(sizes), max(sizes)),
        "above": sum(one.ahead > one.behind for one in pairs),
        "surely_above": sum(one.ahead > one.behind for one in sure),
        "surely_below": sum(one.ahead < one.behind for one in sure),
    }
