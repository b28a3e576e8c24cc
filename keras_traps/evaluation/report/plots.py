"""The plots of a report, drawn without any global state of matplotlib."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_traps.evaluation.report.blocks import Picture
from keras_traps.evaluation.report.canvas import (
    DARK,
    LIGHT,
    Scheme,
    draw_density,
    style_axes,
    to_png,
)
from keras_traps.evaluation.report.density import Curve, density, roc_curve
from keras_traps.evaluation.report.formatting import listing, nominal
from keras_traps.evaluation.report.tables import nominal_rates
from keras_traps.evaluation.results import Evaluation

Values = npt.NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One statistic of w: its label, its threshold, and a curve per group.

    A number stands for a group whose values do not vary, `None` for an empty one.
    """

    label: str
    threshold: str
    curves: list[Curve | float | None]


_DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))
_SMALLEST_RATE = 1e-3


def roc_picture(evaluation: Evaluation) -> Picture | None:
    """Draws the ROC curve of every attack, plain and with a stretched left end.

    Args:
        evaluation: Its `samples` hold the scores.

    Returns:
        The plot, or `None` where there are no scores to compare.
    """
    clean = evaluation.samples.clean_scores
    curves = {
        attack: curve
        for attack, scores in evaluation.samples.attacked_scores.items()
        if (curve := roc_curve(clean, scores)) is not None
    }
    if not curves:
        return None
    rates = nominal_rates(evaluation)

    def draw(scheme: Scheme) -> bytes:
        return _draw_roc(curves, rates, scheme)

    return Picture(
        "roc",
        f"ROC curves of the analyzer's score for {listing(list(curves), most=20)}: "
        "detection rate over false-positive rate.",
        "How well the analyzer's score tells attacked images from clean ones: one "
        "curve per attack, successful adversarial images against all clean ones. The "
        "upper left corner is perfect, the dotted diagonal is chance. Right: the same "
        "with the false-positive rate on a logarithmic axis; vertical lines mark the "
        "nominal rates.",
        draw(LIGHT),
        draw(DARK),
    )


def correlation_picture(evaluation: Evaluation) -> Picture | None:
    """Draws densities of w on clean and attacked images, with the thresholds.

    Args:
        evaluation: Its `samples` hold the correlations, its `rows` the attacks' kinds.

    Returns:
        The plot, or `None` where there are no correlations at all.
    """
    groups = _correlation_groups(evaluation)
    if not groups:
        return None

    panels = _panels(groups)

    def draw(scheme: Scheme) -> bytes:
        return _draw_correlations(panels, list(groups), evaluation.thresholds, scheme)

    return Picture(
        "correlations",
        "Densities of the decoder's output w, its largest and smallest coefficient and "
        f"its standard deviation, for {listing(list(groups))}.",
        "What the analyzer looks at: the decoder's output w. Upper left: all "
        "coefficients; the others: the three statistics that it compares with its "
        "thresholds (vertical lines). Attacked images are those that M gets wrong. "
        "Each density is scaled to its own peak; a lone vertical line stands for "
        "values that do not vary.",
        draw(LIGHT),
        draw(DARK),
    )


def _correlation_groups(evaluation: Evaluation) -> dict[str, Values]:
    kinds = {row.attack: row.kind for row in evaluation.rows}
    names = {"UA": "untargeted attacks", "TA": "targeted attacks"}
    found: dict[str, list[Values]] = {}
    found["clean"] = [evaluation.samples.clean_correlations]
    for attack, values in evaluation.samples.attacked_correlations.items():
        name = names.get(kinds.get(attack, ""), "other attacks")
        found.setdefault(name, []).append(values)
    groups = {
        name: np.concatenate([part for part in parts if part.size])
        for name, parts in found.items()
        if any(part.size for part in parts)
    }
    order = ("clean", *names.values(), "other attacks")
    return {name: groups[name] for name in order if name in groups}


def _draw_roc(
    curves: Mapping[str, Curve], rates: Sequence[float], scheme: Scheme
) -> bytes:
    figure = Figure(figsize=(9.6, 4.3), layout="constrained", facecolor=scheme.ground)
    plain, stretched = figure.subplots(1, 2, sharey=True)
    handles = []
    chance = np.geomspace(_SMALLEST_RATE / 10, 1, 60)
    for axes in (plain, stretched):
        style_axes(axes, scheme)
        axes.plot(chance, chance, color=scheme.muted, linestyle=":", linewidth=1)
        axes.set_xlabel("False-positive rate")
    for index, (x, y) in enumerate(curves.values()):
        line: dict[str, Any] = {
            "color": scheme.hues[index % len(scheme.hues)],
            "linestyle": _DASHES[index // len(scheme.hues) % len(_DASHES)],
            "linewidth": 1.4,
        }
        handles.append(Line2D([], [], **line))
        plain.plot(x, y, **line)
        # A logarithmic axis has no place for 0: what is reached without a single
        # false positive starts at its left end.
        stretched.plot(np.maximum(x, _SMALLEST_RATE / 10), y, **line)
    for rate in rates:
        stretched.axvline(rate, color=scheme.muted, linewidth=0.8)
        stretched.annotate(
            nominal(rate),
            (rate, 0.12),
            xytext=(-3, 0),
            textcoords="offset points",
            ha="right",
            color=scheme.muted,
            fontsize=8,
        )
    stretched.set_xscale("log")
    stretched.set_xlim(_SMALLEST_RATE, 1)
    plain.set_xlim(-0.01, 1.01)
    plain.set_ylim(-0.02, 1.02)
    plain.set_ylabel("Detection rate")
    legend = figure.legend(
        handles,
        list(curves),
        loc="outside right center",
        frameon=False,
        fontsize=8.5,
        labelcolor=scheme.ink,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return to_png(figure)


def _panels(groups: Mapping[str, Values]) -> list[Panel]:
    statistics: list[tuple[str, str, Callable[[Values], Values]]] = [
        ("Coefficients of w", "", np.ravel),
        ("max w, compared with U", "U", lambda w: w.max(axis=1)),
        ("min w, compared with L", "L", lambda w: w.min(axis=1)),
        ("stdev w, compared with σ₀", "sigma0", lambda w: w.std(axis=1)),
    ]
    # A coefficient that is not finite makes a statistic that is not; it is left out.
    with np.errstate(invalid="ignore", over="ignore"):
        return [
            Panel(label, threshold, [_curve_or_place(of(w)) for w in groups.values()])
            for label, threshold, of in statistics
        ]


def _curve_or_place(sample: Values) -> Curve | float | None:
    curve = density(sample)
    if curve is not None:
        return curve
    finite = sample[np.isfinite(sample)]
    return float(np.median(finite)) if finite.size else None


def _draw_correlations(
    panels: Sequence[Panel],
    names: Sequence[str],
    thresholds: Mapping[float, Mapping[str, float]],
    scheme: Scheme,
) -> bytes:
    figure = Figure(figsize=(9.6, 5.6), layout="constrained", facecolor=scheme.ground)
    hues = [_group_hue(name, scheme) for name in names]
    lines: dict[str, Line2D] = {
        name: Line2D([], [], color=hue, linewidth=2.4)
        for name, hue in zip(names, hues, strict=True)
    }
    for axes, panel in zip(figure.subplots(2, 2).ravel(), panels, strict=True):
        style_axes(axes, scheme)
        for hue, curve in zip(hues, panel.curves, strict=True):
            draw_density(axes, curve, hue, filled=hue == scheme.muted)
        for index, (fpr, values) in enumerate(sorted(thresholds.items(), reverse=True)):
            place = values.get(panel.threshold)
            if place is not None and np.isfinite(place):
                dash = _DASHES[index % len(_DASHES)]
                lines[f"threshold at {nominal(fpr)} FPR"] = axes.axvline(
                    place, color=scheme.ink, linewidth=1, linestyle=dash
                )
        axes.set_xlabel(panel.label)
        axes.set_ylabel("Density / its peak")
        axes.set_yticks([])
        axes.set_ylim(0, 1.08)
    figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside upper center",
        ncols=5,
        frameon=False,
        fontsize=8.5,
        labelcolor=scheme.ink,
    )
    return to_png(figure)


def _group_hue(name: str, scheme: Scheme) -> str:
    hues = {
        "clean": scheme.muted,
        "untargeted attacks": scheme.hues[1],
        "targeted attacks": scheme.hues[0],
    }
    return hues.get(name, scheme.hues[2])
