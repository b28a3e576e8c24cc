"""The plots and the strips of pixels of a report, without matplotlib's global state."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from scipy.stats import gaussian_kde
from sklearn.metrics import roc_curve

from keras_traps._checks import FloatArray
from keras_traps.evaluation.evaluate import Evaluation
from keras_traps.evaluation.render import listing, nominal, number

Values = npt.NDArray[np.floating]

# Ground, ink, muted ink, and the palette of Okabe and Ito, which stays apart under the
# common colour blindnesses; on a dark ground its blues and its orange are too dark.
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LIGHT = ("#ffffff", "#1d2327", "#6b747c", _HUES)
_DARK_HUES = ("#4fa3dc", "#f0803c", *_HUES[2:5], "#F0E442")
_DARK = ("#14181b", "#e4e8ea", "#98a2aa", _DARK_HUES)
_Scheme = tuple[str, str, str, tuple[str, ...]]

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))
_KINDS = {"UA": "untargeted attacks", "TA": "targeted attacks"}
_SMALLEST_RATE = 1e-3
_MOST_SAMPLES, _POINTS = 5_000, 400
_SHOWN_SIDE, _GAP = 112, 8


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot as PNG for a light and a dark page, and in words, `alt`."""

    alt: str
    light: bytes
    dark: bytes


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
    return Picture(
        f"ROC curves of the analyzer's score for {listing(list(curves), most=20)}: "
        "detection rate over false-positive rate.",
        *(_roc(curves, list(evaluation.thresholds), each) for each in (_LIGHT, _DARK)),
    )


def correlation_picture(evaluation: Evaluation) -> Picture | None:
    """Draws densities of w on clean and attacked images, with the thresholds."""
    kinds = {row["attack"]: _KINDS[row["kind"]] for row in evaluation.rows}
    groups: dict[str, list[FloatArray]] = {"clean": []}
    groups |= {name: [] for name in _KINDS.values()}
    for attack, w in evaluation.correlations.items():
        if w.size:
            groups[kinds.get(attack, "clean")].append(w)
    drawn = {name: np.concatenate(parts) for name, parts in groups.items() if parts}
    if not drawn:
        return None
    thresholds = evaluation.thresholds
    return Picture(
        "Densities of the decoder's output w, its largest and smallest coefficient and "
        f"its standard deviation, for {listing(list(drawn))}.",
        *(_correlations(drawn, thresholds, each) for each in (_LIGHT, _DARK)),
    )


def _roc(
    curves: Mapping[str, tuple[Values, Values]], rates: list[float], scheme: _Scheme
) -> bytes:
    ground, _, muted, hues = scheme
    figure = Figure(figsize=(9.6, 4.3), layout="constrained", facecolor=ground)
    plain, stretched = figure.subplots(1, 2, sharey=True)
    chance = np.geomspace(_SMALLEST_RATE / 10, 1, 60)
    for axes in (plain, stretched):
        _style(axes, scheme)
        axes.plot(chance, chance, color=muted, linestyle=":", linewidth=1)
        axes.set_xlabel("False-positive rate")
    lines = {}
    for index, (attack, (x, y)) in enumerate(curves.items()):
        line: dict[str, Any] = {
            "color": hues[index % len(hues)],
            "linestyle": _DASHES[index // len(hues) % len(_DASHES)],
            "linewidth": 1.4,
        }
        lines[attack] = plain.plot(x, y, **line)[0]
        # A logarithmic axis has no place for 0: what is reached without a single
        # false positive starts at its left end.
        stretched.plot(np.maximum(x, _SMALLEST_RATE / 10), y, **line)
    for rate in rates:
        stretched.axvline(rate, color=muted, linewidth=0.8)
        place = {"xytext": (-3, 0), "textcoords": "offset points", "ha": "right"}
        stretched.annotate(
            nominal(rate), (rate, 0.12), color=muted, fontsize=8, **place
        )
    stretched.set(xscale="log", xlim=(_SMALLEST_RATE, 1))
    plain.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02), ylabel="Detection rate")
    return _to_png(figure, lines, scheme, loc="outside right center")


def _correlations(
    groups: Mapping[str, Values],
    thresholds: Mapping[float, Mapping[str, float]],
    scheme: _Scheme,
) -> bytes:
    ground, ink, muted, hues = scheme
    statistics: list[tuple[str, str, Callable[[Values], Values]]] = [
        ("Coefficients of w", "", np.ravel),
        ("max w, compared with U", "U", lambda w: w.max(axis=1)),
        ("min w, compared with L", "L", lambda w: w.min(axis=1)),
        ("stdev w, compared with σ₀", "sigma0", lambda w: w.std(axis=1)),
    ]
    hue = dict(zip(("clean", *_KINDS.values()), (muted, hues[1], hues[0]), strict=True))
    figure = Figure(figsize=(9.6, 5.6), layout="constrained", facecolor=ground)
    lines = {name: Line2D([], [], color=hue[name], linewidth=2.4) for name in groups}
    panels = figure.subplots(2, 2).ravel()
    for axes, (label, limit, of) in zip(panels, statistics, strict=True):
        _style(axes, scheme)
        for name, w in groups.items():
            # A coefficient that is not finite makes a statistic that is not.
            with np.errstate(invalid="ignore", over="ignore"):
                _density(axes, _finite(of(w)), hue[name], filled=name == "clean")
        for index, (fpr, values) in enumerate(sorted(thresholds.items(), reverse=True)):
            if limit in values:
                dash = _DASHES[index % len(_DASHES)]
                lines[f"threshold at {nominal(fpr)} FPR"] = axes.axvline(
                    values[limit], color=ink, linewidth=1, linestyle=dash
                )
        axes.set(xlabel=label, ylabel="Density / its peak", yticks=[], ylim=(0, 1.08))
    return _to_png(figure, lines, scheme, loc="outside upper center", ncols=5)


def _density(axes: Axes, sample: Values, hue: str, *, filled: bool) -> None:
    values = np.sort(sample.astype(np.float64))
    if values.size > _MOST_SAMPLES:
        # Evenly spaced ranks keep the distribution, and the extremes.
        ranks = np.linspace(0, values.size - 1, _MOST_SAMPLES).round().astype(np.int64)
        values = values[ranks]
    if not values.size:
        return
    if np.ptp(values) <= 1e-9 * max(1e-12, float(np.abs(values).max())):
        axes.axvline(float(np.median(values)), ymax=0.92, color=hue, linewidth=2.4)
        return
    estimate = gaussian_kde(values)
    margin = 3 * float(np.sqrt(estimate.covariance[0, 0]))
    x = np.linspace(values[0] - margin, values[-1] + margin, _POINTS)
    y = estimate(x) / estimate(x).max()
    if filled:
        axes.fill_between(x, y, color=hue, alpha=0.25, linewidth=0)
    axes.plot(x, y, color=hue, linewidth=1.6)


def _finite(values: Values) -> Values:
    finite: Values = values[np.isfinite(values)]
    return finite


def _style(axes: Axes, scheme: _Scheme) -> None:
    ground, ink, muted, _ = scheme
    axes.set_facecolor(ground)
    axes.tick_params(which="both", colors=muted, labelsize=8.5)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(muted)


def _to_png(
    figure: Figure, lines: Mapping[str, Line2D], scheme: _Scheme, **where: Any
) -> bytes:
    look: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": scheme[1]}
    legend = figure.legend([*lines.values()], [*lines], **look, **where)
    for text in legend.get_texts():
        text.set_parse_math(False)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without the version in it, the same evaluation gives the same bytes.
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def strip_png(clean: FloatArray, adversarial: FloatArray) -> bytes:
    """Draws clean image, adversarial image and perturbation side by side.

    The perturbation is stretched so that its largest change spans the range from
    mid-grey to black or white; pixels are enlarged without smoothing.
    """
    change = adversarial - clean
    largest = float(np.abs(change).max()) or 1.0
    panels = []
    for image in (clean, adversarial, 0.5 + change / (2 * largest)):
        grey = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
        colour = np.broadcast_to(grey, (*grey.shape[:2], 3))
        rgba = np.pad(colour, ((0, 0), (0, 0), (0, 1)), constant_values=255)
        factor = max(1, _SHOWN_SIDE // max(grey.shape[:2]))
        panels.append(rgba.repeat(factor, axis=0).repeat(factor, axis=1))
    gap = np.zeros((panels[0].shape[0], _GAP, 4), np.uint8)
    strip = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def example_view(example: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Says what became of an attacked image, and draws it."""
    label, attack, flagged = example["label"], example["attack"], example["flagged"]
    true, said, recovered = (
        names[each] if 0 <= each < len(names) else str(each)
        for each in (label, example["predicted"], example["recovered"])
    )
    fooled, right = example["predicted"] != label, example["recovered"] == label
    score = f"score {number(round(example['score'], 3))}"
    verdict, recovery = f"not flagged, {score}", "not asked, as nothing was flagged"
    if flagged:
        verdict = f"flagged by {', '.join(example['fired'])}, {score}"
        recovery = f"{recovered}, {'the true class' if right else 'a wrong class'}"
    outcome = "Caught and recovered" if right else "Caught, wrong class recovered"
    if not fooled:
        outcome = "Flagged, though not fooled" if flagged else "Not fooled"
    elif not flagged:
        outcome = "Missed"
    change = example["adversarial"] - example["clean"]
    size = f"at most {np.abs(change).max():.2f} per pixel"
    size += f", L2 {np.linalg.norm(change):.2f}"
    strip = strip_png(example["clean"], example["adversarial"])
    alt = f"Clean image of {true}, the same after {attack}, and the perturbation."
    return {
        "title": f"{attack}: {true} {'' if fooled else 'still '}read as {said}",
        "outcome": outcome,
        "good": not fooled or (flagged and right),
        "picture": Picture(f"{alt} {outcome}.", strip, strip),
        "facts": [("Analyzer", verdict), ("Recovered", recovery), ("Change", size)],
    }
