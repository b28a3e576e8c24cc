"""Figures 4 and 5 of the luring paper, from the frame of what the attacks recorded."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.drawing import HUES, MUTED, Result, blank, draw_box, quantiles, style_axes
from keras_traps.evaluation.metrics import luring_rates
from keras_traps.evaluation.paper import NAMES

ATTACKS = ("FGSM", "PGD", "MIM", "MIML2")
"""The attacks of Figure 4."""

VARIANT_HUES = dict(zip(("luring", "ce", "auto", "stack"), HUES, strict=True))
"""The colour of a variant, the same in every figure."""


def figure_4(dataset: str, frame: pd.DataFrame) -> Result:
    """Draws detection rate and adequation rate over the radius."""
    shown, variants = _shown(frame, ATTACKS)
    rows, left_out = [], []
    for (attack, eps), cell in shown.groupby(["attack", "eps"], observed=True):
        # What fools all source models is another thing where there are fewer.
        if cell.variant.nunique() < len(variants):
            left_out.append(f"{attack} {eps:g}")
            continue
        counts = cell[cell.augmented != cell.label].groupby("id").variant.nunique()
        kept = cell[cell.id.isin(counts.index[counts == len(variants)])]
        for variant in variants:
            of = kept[kept.variant == variant]
            found = luring_rates(of)
            rows.append(
                {
                    "attack": attack,
                    "eps": eps,
                    "variant": variant,
                    "images": len(of),
                    "attacked": (cell.variant == variant).sum(),
                    "dr": found.dr.value,
                    "dr_interval": found.dr.interval,
                    "adq": found.adq.value,
                    "adq_interval": found.adq.interval,
                }
            )
    if not rows:
        raise ValueError(
            "No attack of Figure 4 was run on all of "
            f"{', '.join(NAMES[variant] for variant in variants)} at one radius."
        )
    return Result(
        figure="luring_figure4",
        dataset=dataset,
        title=f"Figure 4 on {dataset}: detection rate and adequation rate",
        pictures={"luring_figure4": _draw_rates(pd.DataFrame(rows), variants)},
        numbers={"dataset": dataset, "rows": rows},
        words={"left_out": ", ".join(left_out) or "none"},
    )


def figure_5(dataset: str, frame: pd.DataFrame) -> Result:
    """Draws how many values PGD changes, by source model; the frame is Figure 4's."""
    shown, variants = _shown(frame, ("PGD",))
    by_cell = dict(iter(shown.groupby(["eps", "variant"])))
    rows = []
    radii = sorted(shown.eps.unique())
    figure = blank(1.2 + 2.6 * len(radii), 3.2)
    panels = figure.subplots(1, len(radii), sharey=True, squeeze=False)[0]
    for axes, eps in zip(panels, radii, strict=True):
        style_axes(axes)
        for place, variant in enumerate(variants):
            if (eps, variant) not in by_cell:
                continue
            of = by_cell[eps, variant]
            l0 = of[of.augmented != of.label].l0.to_numpy(np.int64)
            mean = l0.mean() if len(l0) else None
            row = {"eps": eps, "variant": variant, "images": len(l0)}
            rows.append({**row, **quantiles(l0), "mean": mean})
            if len(l0):
                draw_box(axes, place, l0, VARIANT_HUES[variant])
        axes.set_xlim(-0.6, len(variants) - 0.4)
        axes.set_xticks(range(len(variants)), [NAMES[name] for name in variants])
        axes.set_title(f"ε = {eps:g}", fontsize=10)
    panels[0].set_ylabel("Changed values")
    return Result(
        figure="luring_figure5",
        dataset=dataset,
        title=f"Figure 5 on {dataset}: how many values PGD changes",
        pictures={"luring_figure5": figure},
        numbers={"dataset": dataset, "rows": rows},
    )


def _shown(frame: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The rows of attacks, which sort in the order of their names, and the variants."""
    shown = frame[(frame.threat == "luring") & frame.attack.isin(names)]
    if not len(shown):
        raise ValueError(
            "There are no records to draw. Attack first, by "
            f"--attacks={','.join(ATTACKS)}."
        )
    there = set(shown.variant)
    ordered = shown.assign(attack=pd.Categorical(shown.attack, names))
    return ordered, [name for name in NAMES if name in there]


def _draw_rates(rows: pd.DataFrame, variants: Sequence[str]) -> Figure:
    """A panel per attack, solid and dashed lines per variant."""
    attacks = rows.attack.unique()
    figure = blank(1.6 + 2.6 * len(attacks), 3.4)
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    look = {"marker": "o", "markersize": 3.5, "linewidth": 1.5}
    for axes, attack in zip(panels, attacks, strict=True):
        style_axes(axes)
        of_attack = rows[rows.attack == attack]
        for variant in variants:
            of = of_attack[of_attack.variant == variant].astype(
                {"dr": float, "adq": float}
            )
            hue = VARIANT_HUES[variant]
            axes.plot(of.eps, of.dr, "-", color=hue, **look)
            axes.plot(of.eps, of.adq, "--", color=hue, **look)
        axes.set_xticks(sorted(of_attack.eps.unique()))
        axes.set_title(attack, fontsize=10)
        axes.set_xlabel("ε")
        axes.set_ylim(-0.03, 1.03)
    panels[0].set_ylabel("Rate")
    lines = [Line2D([], [], color=VARIANT_HUES[variant]) for variant in variants]
    lines += [Line2D([], [], color=MUTED, linestyle=dash) for dash in ("-", "--")]
    names = [*(NAMES[variant] for variant in variants), "DR", "Adq"]
    figure.legend(lines, names, loc="outside right center", frameon=False, fontsize=9)
    return figure
