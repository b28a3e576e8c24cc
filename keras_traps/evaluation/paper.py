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

# The false-positive rate of the attractor paper's tables, and of a part of IV.
PAPER_FPR, LOW_FPR = 0.05, 0.005

OVERALL = {PAPER_FPR: "overall_asr", LOW_FPR: "overall_asr_fpr0.5"}
"""What the overall success of attacks at a false-positive rate is kept as."""

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
    "rejecting": "flags told",
    "adaptive": "everything known",
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

# What luring's Tables 2 to 4 show, by its field in `LuringMetrics`, and their attacks;
# the paper's figures have others too.
MEASURES = {"ac_mop": "AC_M∘P", "ac_m": "AC_M", "dac": "DAC"}
TABLED = ("FGSM", "MIM", "DIM", "MIM-TI", "DIM-TI")


def look_up(paper: str, *place: str) -> dict[str, float | None]:
    """Looks up a row of the tables of `"attractors"` or `"luring"`; `{}` for none.

    Its place is `"clean"` and a data set, or `"attacks"`, an attack and a data set, and
    of luring `"clean"`, a data set and a variant, or `"attacks"`, a data set, an
    attack, a radius and a variant.
    """
    found = _read(paper)
    for name in place:
        found = found.get(name, {})
    return dict(found)


def look_up_detector(kind: str, attack: str, dataset: str) -> dict[str, float | None]:
    """Looks up `tpr`, `auc`, `overall_asr` and the like in Table III; `{}` for none.

    The traps, `"Attractors"`, have the numbers of Tables I and IV.
    """
    if kind != "Attractors":
        return look_up("attractors", "baselines", dataset, kind, attack)
    found = look_up("attractors", "attacks", attack, dataset)
    return {**found, "tpr": found["detection"]} if found else {}


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
    found: list[dict[str, Any]] = []
    if not ours:
        return found
    right = frame["target"] == frame["label"]
    frame = frame.assign(ac_m=right, dac=frame["defended"]).set_index("id")
    parts = dict(iter(frame.groupby(["subject", "attack", "eps"])))
    for baseline in ("stack", "auto", "ce"):
        shared = {
            (attack, eps): (run, ours[baseline, attack, eps])
            for (variant, attack, eps), run in ours.items()
            if variant == "luring" and (baseline, attack, eps) in ours
        }
        alike = {k: both for k, both in shared.items() if _alike(*both)}
        for what in ("ac_m", "dac") if alike else ():
            goods = {
                place: [parts[run.subject, *place][what] for run in both]
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


def _count_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    sure = [one for one in pairs if one.p_value < LEVEL]
    sizes = [one.images for one in pairs]
    return {
        "images": (min(sizes), max(sizes)),
        "above": sum(one.ahead > one.behind for one in pairs),
        "surely_above": sum(one.ahead > one.behind for one in sure),
        "surely_below": sum(one.ahead < one.behind for one in sure),
    }
