"""Figures 4 and 5 of the luring paper, from the frame of what the attacks recorded."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.drawing import (
    HUES,
    MUTED,
    Result,
    blank,
    draw_box,
    quantiles,
    style_axes,
)
from keras_traps.evaluation.paper import NAMES
from keras_traps.luring import adequation_rate, detection_rate

ATTACKS = ("FGSM", "PGD", "MIM", "MIML2")
"""The attacks of Figure 4."""

VARIANT_HUES = dict(zip(("luring", "ce", "auto", "stack"), HUES, strict=True))
"""The colour of a variant, the same in every figure."""


def fooling_all(frame: pd.DataFrame) -> pd.DataFrame:
    """Keeps the images whose attacked forms fool every source model.

    The rows are of one attack and radius. Kept are the images that were attacked on
    every variant, each M∘P giving a wrong class; there may be none.
    """
    fooled = frame[frame.augmented != frame.label]
    ids = [set(rows.id) for _, rows in fooled.groupby("variant")]
    if len(ids) < frame.variant.nunique():
        return frame[:0]
    return frame[frame.id.isin(functools.reduce(set.intersection, ids))]


def figure_4(dataset: str, frame: pd.DataFrame) -> Result:
    """Draws detection rate and adequation rate over the radius."""
    shown = _shown(frame, ATTACKS)
    variants = _variants(shown)
    rows: list[dict[str, Any]] = []
    left_out = []
    for attack in ATTACKS:
        for eps, cell in shown[shown.attack == attack].groupby("eps"):
            # What fools all source models is another thing where there are fewer.
            if cell.variant.nunique() < len(variants):
                left_out.append(f"{attack} {eps:g}")
                continue
            kept = fooling_all(cell)
            for variant in variants:
                of = kept[kept.variant == variant]
                answers = {
                    "augmented": of.augmented.to_numpy(np.int64),
                    "target": of.target.to_numpy(np.int64),
                    "labels": of.label.to_numpy(np.int64),
                }
                dr, adq = detection_rate(**answers), adequation_rate(**answers)
                rows.append(
                    {
                        "attack": attack,
                        "eps": float(eps),
                        "variant": variant,
                        "images": len(of),
                        "attacked": int((cell.variant == variant).sum()),
                        "dr": dr.value,
                        "dr_interval": dr.interval,
                        "adq": adq.value,
                        "adq_interval": adq.interval,
                    }
                )
    if not rows:
        raise ValueError(
            "No attack of Figure 4 was run on all of "
            f"{', '.join(NAMES[variant] for variant in variants)} at one radius."
        )
    name = f"luring_figure4_{dataset}"
    return Result(
        name=name,
        title=f"Figure 4 on {dataset}: detection rate and adequation rate",
        pictures={name: _draw_rates(rows, variants)},
        text=(
            "Of the attacked images that fool every M∘P: how many M gives another "
            "class than M∘P does (detection rate, Equation 2, solid), and how many M "
            "is right on (adequation rate, Equation 3, dashed). A point is missing "
            "where no image fools all of them, and a radius where not all were "
            f"attacked ({', '.join(left_out) or 'none'})."
        ),
        numbers={"dataset": dataset, "rows": rows},
    )


def figure_5(dataset: str, frame: pd.DataFrame) -> Result:
    """Draws how many values PGD changes, by source model; the frame is Figure 4's."""
    shown = _shown(frame, ("PGD",))
    variants = _variants(shown)
    rows = []
    samples: dict[tuple[float, str], npt.NDArray[np.int64]] = {}
    for eps, cell in shown.groupby("eps"):
        for variant in variants:
            of = cell[cell.variant == variant]
            l0 = of[of.augmented != of.label].l0.to_numpy(np.int64)
            if not len(of):
                continue
            samples[float(eps), variant] = l0
            rows.append(
                {
                    "eps": float(eps),
                    "variant": variant,
                    "images": len(l0),
                    **quantiles(l0),
                    "mean": float(l0.mean()) if len(l0) else None,
                }
            )
    name = f"luring_figure5_{dataset}"
    return Result(
        name=name,
        title=f"Figure 5 on {dataset}: how many values PGD changes",
        pictures={name: _draw_changes(samples, variants)},
        text=(
            "How many values of an image PGD has changed, by the M∘P that it was made "
            "on and that it fools. Boxes hold the middle half, whiskers reach from 5 % "
            "to 95 %, the line is the median. PGD starts from a random point of its "
            "ball, which changes every value that is not cut off at 0 or 1."
        ),
        numbers={"dataset": dataset, "rows": rows},
    )


def _shown(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    shown = frame[(frame.threat == "luring") & frame.attack.isin(names)]
    if not len(shown):
        raise ValueError(
            f"There are no records to draw. Attack first, by --attacks="
            f"{','.join(ATTACKS)}."
        )
    return shown


def _variants(frame: pd.DataFrame) -> list[str]:
    there = set(frame.variant)
    return [name for name in NAMES if name in there]


def _draw_rates(rows: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> Figure:
    """A panel per attack, solid and dashed lines per variant."""
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    figure = blank(1.6 + 2.6 * len(attacks), 3.4)
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    dashes = {"dr": "-", "adq": "--"}
    for axes, attack in zip(panels, attacks, strict=True):
        style_axes(axes)
        of_attack = [row for row in rows if row["attack"] == attack]
        for variant in variants:
            of = [row for row in of_attack if row["variant"] == variant]
            for key, dash in dashes.items():
                axes.plot(
                    [row["eps"] for row in of],
                    [np.nan if row[key] is None else row[key] for row in of],
                    color=VARIANT_HUES[variant],
                    linestyle=dash,
                    marker="o",
                    markersize=3.5,
                    linewidth=1.5,
                )
        axes.set_xticks(sorted({row["eps"] for row in of_attack}))
        axes.set_title(attack, fontsize=10)
        axes.set_xlabel("ε")
        axes.set_ylim(-0.03, 1.03)
    panels[0].set_ylabel("Rate")
    lines = [Line2D([], [], color=VARIANT_HUES[variant]) for variant in variants]
    lines += [
        Line2D([], [], color=MUTED),
        Line2D([], [], color=MUTED, linestyle="dashed"),
    ]
    names = [*(NAMES[variant] for variant in variants), "DR", "Adq"]
    figure.legend(lines, names, loc="outside right center", frameon=False, fontsize=9)
    return figure


def _draw_changes(
    samples: Mapping[tuple[float, str], npt.NDArray[np.int64]], variants: Sequence[str]
) -> Figure:
    """A panel per radius, a box per variant."""
    radii = sorted({eps for eps, _ in samples})
    figure = blank(1.2 + 2.6 * len(radii), 3.2)
    panels = figure.subplots(1, len(radii), sharey=True, squeeze=False)[0]
    for axes, eps in zip(panels, radii, strict=True):
        style_axes(axes)
        for place, variant in enumerate(variants):
            values = samples.get((eps, variant), np.zeros(0, np.int64))
            if len(values):
                draw_box(axes, place, values, VARIANT_HUES[variant])
        axes.set_xlim(-0.6, len(variants) - 0.4)
        axes.set_xticks(range(len(variants)), [NAMES[name] for name in variants])
        axes.set_title(f"ε = {eps:g}", fontsize=10)
    panels[0].set_ylabel("Changed values")
    return figure
