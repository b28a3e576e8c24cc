"""How the luring paper's figures are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_traps.evaluation.luring.names import NAMES
from keras_traps.evaluation.report.canvas import Scheme, style_axes, to_png


def hue(variant: str, scheme: Scheme) -> str:
    """Returns the colour of a variant, the same in every figure."""
    order = ("luring", "ce", "auto", "stack")
    return scheme.hues[order.index(variant)]


def draw_box(
    axes: Axes, place: float, values: npt.NDArray[Any], colour: str, scheme: Scheme
) -> None:
    """Draws a box over the middle half, with whiskers from 5 % to 95 %.

    Args:
        axes: Where to.
        place: Where along the first axis.
        values: `(values,)`, at least one.
        colour: Its colour.
        scheme: The colours of what is around it.
    """
    line = {"color": colour, "linewidth": 1.4}
    axes.boxplot(
        [values],
        positions=[place],
        widths=0.6,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        boxprops={"edgecolor": colour, "facecolor": scheme.ground, "linewidth": 1.4},
        medianprops={"color": colour, "linewidth": 2.4},
        whiskerprops=line,
        capprops=line,
    )


def draw_rates(
    rows: Sequence[Mapping[str, Any]], variants: Sequence[str], scheme: Scheme
) -> bytes:
    """Draws Figure 4: a panel per attack, solid and dashed lines per variant.

    Args:
        rows: `attack`, `eps`, `variant`, `images`, `dr` and `adq` of each point.
        variants: Which variants there are.
        scheme: The colours.

    Returns:
        A PNG.
    """
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    size = (1.6 + 2.6 * len(attacks), 3.4)
    figure = Figure(figsize=size, layout="constrained", facecolor=scheme.ground)
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    for axes, attack in zip(panels, attacks, strict=True):
        style_axes(axes, scheme)
        for variant in variants:
            of = [r for r in rows if (r["attack"], r["variant"]) == (attack, variant)]
            eps = [row["eps"] for row in of]
            for key, dash in (("dr", "-"), ("adq", "--")):
                rates = [np.nan if row[key] is None else row[key] for row in of]
                axes.plot(
                    eps,
                    rates,
                    color=hue(variant, scheme),
                    linestyle=dash,
                    marker="o",
                    markersize=3.5,
                    linewidth=1.5,
                )
        of_attack = [row for row in rows if row["attack"] == attack]
        radii = sorted({row["eps"] for row in of_attack})
        margin = 0.1 * (radii[-1] - radii[0]) or 0.1 * radii[0]
        axes.set_xlim(radii[0] - margin, radii[-1] + margin)
        axes.set_xticks(radii)
        if not any(row["images"] for row in of_attack):
            axes.text(
                0.5,
                0.5,
                "no image\nfools all",
                transform=axes.transAxes,
                ha="center",
                va="center",
                color=scheme.muted,
                fontsize=9,
            )
        axes.set_title(attack, color=scheme.ink, fontsize=10)
        axes.set_xlabel("ε")
        axes.set_ylim(-0.03, 1.03)
    panels[0].set_ylabel("Rate")
    lines = [
        Line2D([], [], color=hue(variant, scheme), linewidth=2) for variant in variants
    ]
    lines += [
        Line2D([], [], color=scheme.muted, linestyle=dash) for dash in ("-", "--")
    ]
    figure.legend(
        lines,
        [*(NAMES[variant] for variant in variants), "DR", "Adq"],
        loc="outside right center",
        frameon=False,
        fontsize=9,
        labelcolor=scheme.ink,
    )
    return to_png(figure)


def draw_changes(
    samples: Mapping[tuple[float, str], npt.NDArray[np.integer]],
    variants: Sequence[str],
    scheme: Scheme,
) -> bytes:
    """Draws Figure 5: a panel per radius, a box per variant.

    Args:
        samples: How many values were changed in each image, by radius and variant.
        variants: Which variants there are.
        scheme: The colours.

    Returns:
        A PNG.
    """
    radii = sorted({eps for eps, _ in samples})
    size = (1.2 + 2.6 * len(radii), 3.2)
    figure = Figure(figsize=size, layout="constrained", facecolor=scheme.ground)
    panels = figure.subplots(1, len(radii), sharey=True, squeeze=False)[0]
    for axes, eps in zip(panels, radii, strict=True):
        style_axes(axes, scheme)
        for place, variant in enumerate(variants):
            values = samples.get((eps, variant), np.zeros(0, int))
            if not len(values):
                continue
            draw_box(axes, place, values, hue(variant, scheme), scheme)
        axes.set_xlim(-0.6, len(variants) - 0.4)
        axes.set_xticks(range(len(variants)), [NAMES[name] for name in variants])
        axes.tick_params(axis="x", labelcolor=scheme.ink)
        axes.set_title(f"ε = {eps:g}", color=scheme.ink, fontsize=10)
    panels[0].set_ylabel("Changed values")
    return to_png(figure)
