"""The plots and the strips of pixels of a report, without matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import gaussian_kde
from sklearn.metrics import roc_curve

from keras_traps._checks import FloatArray
from keras_traps.attractors import Trace
from keras_traps.evaluation.evaluate import Evaluation
from keras_traps.evaluation.render import listing, nominal

# The palette of Okabe and Ito stays apart under the common colour blindnesses.
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK, _MUTED = "#1d2327", "#6b747c"

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))
_KINDS = {"UA": "untargeted attacks", "TA": "targeted attacks"}
_SMALLEST_RATE = 1e-3
_MOST_SAMPLES, _POINTS = 5_000, 400
_SHOWN_SIDE, _GAP = 112, 8
_MOST_COPIES = 20


class Picture(NamedTuple):
    """A PNG, and what it shows in words."""

    alt: str
    png: bytes


def roc_picture(evaluation: Evaluation) -> Picture | None:
    """Draws the ROC curve of every attack, plain and with a stretched left end."""
    clean, curves = _finite(evaluation.clean_scores), {}
    for attack, scores in evaluation.attacked_scores.items():
        attacked = _finite(scores)
        if attacked.size and clean.size:
            truth = np.repeat([0, 1], [clean.size, attacked.size])
            curves[attack] = roc_curve(truth, np.concatenate([clean, attacked]))[:2]
    if not curves:
        return None
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    plain, stretched = figure.subplots(1, 2, sharey=True)
    chance = np.geomspace(_SMALLEST_RATE / 10, 1, 60)
    for axes in (plain, stretched):
        _style(axes)
        axes.plot(chance, chance, color=_MUTED, linestyle=":", linewidth=1)
        axes.set_xlabel("False-positive rate")
    for index, (attack, (x, y)) in enumerate(curves.items()):
        line: dict[str, Any] = {
            "color": _HUES[index % len(_HUES)],
            "linestyle": _DASHES[index // len(_HUES) % len(_DASHES)],
            "linewidth": 1.4,
        }
        plain.plot(x, y, label=attack, **line)
        # A logarithmic axis has no place for 0: what is reached without a single
        # false positive starts at its left end.
        stretched.plot(np.maximum(x, _SMALLEST_RATE / 10), y, **line)
    look = {"color": _MUTED, "fontsize": 8, "ha": "right"}
    for rate in evaluation.thresholds:
        stretched.axvline(rate, color=_MUTED, linewidth=0.8)
        stretched.text(rate * 0.97, 0.12, nominal(rate), **look)
    stretched.set(xscale="log", xlim=(_SMALLEST_RATE, 1))
    plain.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02), ylabel="Detection rate")
    return Picture(
        f"ROC curves of the analyzer's score for {listing(list(curves), most=20)}: "
        "detection rate over false-positive rate.",
        _to_png(figure, loc="outside right center"),
    )


def correlation_picture(evaluation: Evaluation) -> Picture | None:
    """Draws densities of w on clean and attacked images, with the thresholds."""
    kinds = {row["attack"]: _KINDS[row["kind"]] for row in evaluation.rows}
    parts: dict[str, list[FloatArray]] = {k: [] for k in ("clean", *_KINDS.values())}
    for attack, evidence in evaluation.evidence.items():
        if evidence.size:
            parts[kinds.get(attack, "clean")].append(evidence[:, 0])
    groups = {name: np.concatenate(each) for name, each in parts.items() if each}
    if not groups:
        return None
    statistics: list[tuple[str, str, Callable[[FloatArray], FloatArray]]] = [
        ("Coefficients of w", "", np.ravel),
        ("max w, compared with U", "U", lambda w: w.max(axis=1)),
        ("min w, compared with L", "L", lambda w: w.min(axis=1)),
        ("stdev w, compared with σ₀", "sigma0", lambda w: w.std(axis=1)),
    ]
    hue = dict(zip(parts, (_MUTED, _HUES[1], _HUES[0]), strict=True))
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    thresholds = sorted(evaluation.thresholds.items(), reverse=True)
    for axes, (label, limit, of) in zip(panels, statistics, strict=True):
        _style(axes)
        for name, w in groups.items():
            # A coefficient that is not finite makes a statistic that is not.
            with np.errstate(invalid="ignore", over="ignore"):
                sample = _finite(of(w))
            if sample.size:
                shown = None if limit else name
                _density(axes, sample, hue[name], shown, filled=name == "clean")
        for index, (fpr, values) in enumerate(thresholds):
            if limit in values:
                axes.axvline(
                    values[limit],
                    color=_INK,
                    linewidth=1,
                    linestyle=_DASHES[index % len(_DASHES)],
                    label=f"threshold at {nominal(fpr)} FPR" if limit == "U" else None,
                )
        axes.set(xlabel=label, ylabel="Density / its peak", yticks=[], ylim=(0, 1.08))
    return Picture(
        "Densities of the decoder's output w, its largest and smallest coefficient and "
        f"its standard deviation, for {listing(list(groups))}.",
        _to_png(figure, loc="outside upper center", ncols=5),
    )


def p_value_picture(traced: Trace, fpr: float) -> Picture:
    """Draws the p-values of each copy for each image, and for all images together."""
    together = traced.together().p_values[:, 0]
    shown = np.sort(np.argsort(together, kind="stable")[:_MOST_COPIES])
    names = [traced.copies[place].title for place in shown]
    figure = Figure(figsize=(9.6, 1.6 + 0.28 * len(names)), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    places = np.arange(len(names))
    # In a band for each copy, so that equal ones do not hide each other.
    count = traced.scores.shape[1]
    beside = np.linspace(-0.3, 0.3, count) if count > 1 else np.zeros(1)
    axes.scatter(
        traced.p_values[shown],
        places[:, None] + beside,
        s=14,
        color=_HUES[0],
        alpha=0.6,
        linewidth=0,
        label="one image",
    )
    axes.scatter(
        together[shown],
        places,
        s=70,
        marker="D",
        color=_HUES[1],
        label="all images together",
    )
    limit = fpr / len(traced.copies)
    told = f"named to the left, {nominal(fpr)} wrongly"
    axes.axvline(limit, color=_MUTED, linewidth=0.8, linestyle=":", label=told)
    least = 1 / (len(traced.innocent) + 1)
    axes.set(xscale="log", xlim=(least / 1.5, 1.3), xlabel="p-value")
    axes.set_yticks(places, names, parse_math=False)
    axes.invert_yaxis()
    return Picture(
        f"The p-values of {len(names)} of {len(traced.copies)} copies, the likeliest, "
        f"for {count} images.",
        _to_png(figure, loc="outside upper center", ncols=3),
    )


def _density(
    axes: Axes, sample: FloatArray, hue: str, label: str | None, *, filled: bool
) -> None:
    # Evenly spaced ranks keep the distribution, and the extremes.
    ranks = np.linspace(0, 1, min(sample.size, _MOST_SAMPLES))
    values = np.quantile(sample.astype(np.float64), ranks)
    if np.ptp(values) <= 1e-9 * max(1e-12, float(np.abs(values).max())):
        axes.axvline(values[0], ymax=0.92, color=hue, linewidth=2.4, label=label)
        return
    estimate = gaussian_kde(values)
    margin = 3 * float(np.sqrt(estimate.covariance[0, 0]))
    x = np.linspace(values[0] - margin, values[-1] + margin, _POINTS)
    y = estimate(x) / estimate(x).max()
    if filled:
        axes.fill_between(x, y, color=hue, alpha=0.25, linewidth=0)
    axes.plot(x, y, color=hue, linewidth=1.6, label=label)


def _finite(values: FloatArray) -> FloatArray:
    finite: FloatArray = values[np.isfinite(values)]
    return finite


def _style(axes: Axes) -> None:
    axes.tick_params(which="both", colors=_MUTED, labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)


def _to_png(figure: Figure, **where: Any) -> bytes:
    legend = figure.legend(frameon=False, fontsize=8.5, **where)
    for text in legend.get_texts():
        text.set_parse_math(False)
    buffer = io.BytesIO()
    # Without the version in it, the same evaluation gives the same bytes.
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def strip(example: Mapping[str, Any]) -> tuple[bytes, float]:
    """Draws clean image, adversarial image and perturbation side by side, as PNG.

    The perturbation is stretched so that its largest change spans the range from
    mid-grey to black or white, by the factor that is returned too; pixels are enlarged
    without smoothing. A clean image that no attack changed is alone.
    """
    clean, adversarial = example["clean"], example["adversarial"]
    change = adversarial - clean
    factor = 0.5 / (float(np.abs(change).max()) or 0.5)
    shown = (clean, adversarial, 0.5 + factor * change)
    panels = []
    for image in shown if example["attack"] else shown[:1]:
        grey = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
        colour = np.broadcast_to(grey, (*grey.shape[:2], 3))
        rgba = np.pad(colour, ((0, 0), (0, 0), (0, 1)), constant_values=255)
        times = max(1, _SHOWN_SIDE // max(grey.shape[:2]))
        panels.append(rgba.repeat(times, axis=0).repeat(times, axis=1))
    gap = np.zeros((panels[0].shape[0], _GAP, 4), np.uint8)
    empty = [np.zeros_like(panels[0])] * (len(shown) - len(panels))
    parts = [part for panel in (*panels, *empty) for part in (panel, gap)]
    buffer = io.BytesIO()
    whole = np.concatenate(parts[:-1], axis=1)
    Image.fromarray(whole).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue(), factor
