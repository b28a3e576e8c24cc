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
from keras_traps.evaluation.evaluate import Attacked, Evaluation
from keras_traps.evaluation.render import Example, Picture, listing, nominal, number

Values = npt.NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class _Scheme:
    """The colours of a plot that depend on what it stands on."""

    ground: str
    ink: str
    muted: str
    hues: tuple[str, ...]


# The palette of Okabe and Ito, which stays apart under the common colour
# blindnesses; on a dark ground its blues and its orange are too dark or too alike.
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LIGHT = _Scheme("#ffffff", "#1d2327", "#6b747c", _HUES)
_DARK = _Scheme(
    "#14181b", "#e4e8ea", "#98a2aa", ("#4fa3dc", "#f0803c", *_HUES[2:5], "#F0E442")
)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))
_SMALLEST_RATE = 1e-3
_MOST_SAMPLES, _POINTS = 5_000, 400
_SHOWN_SIDE, _GAP = 112, 8


def roc_picture(evaluation: Evaluation) -> Picture | None:
    """Draws the ROC curve of every attack, plain and with a stretched left end.

    Args:
        evaluation: Its `samples` hold the scores.

    Returns:
        The plot, or `None` where there are no scores to compare.
    """
    clean = _known(evaluation.samples.clean_scores)
    curves = {}
    for attack, scores in evaluation.samples.attacked_scores.items():
        attacked = _known(scores)
        if attacked.size and clean.size:
            truth = np.repeat([0, 1], [clean.size, attacked.size])
            curves[attack] = roc_curve(truth, np.concatenate([clean, attacked]))[:2]
    if not curves:
        return None
    rates = sorted(evaluation.thresholds, reverse=True)
    return Picture(
        "roc",
        f"ROC curves of the analyzer's score for {listing(list(curves), most=20)}: "
        "detection rate over false-positive rate.",
        "How well the analyzer's score tells attacked images from clean ones: one "
        "curve per attack, successful adversarial images against all clean ones. The "
        "upper left corner is perfect, the dotted diagonal is chance. Right: the same "
        "with the false-positive rate on a logarithmic axis; vertical lines mark the "
        "nominal rates.",
        *(_draw_roc(curves, rates, scheme) for scheme in (_LIGHT, _DARK)),
    )


def correlation_picture(evaluation: Evaluation) -> Picture | None:
    """Draws densities of w on clean and attacked images, with the thresholds.

    Args:
        evaluation: Its `samples` hold the correlations, its `rows` the attacks' kinds.

    Returns:
        The plot, or `None` where there are no correlations at all.
    """
    kinds = {row["attack"]: row["kind"] for row in evaluation.rows}
    parts = {"clean": [evaluation.samples.clean_correlations]}
    for kind, name in (("UA", "untargeted attacks"), ("TA", "targeted attacks")):
        attacked = evaluation.samples.attacked_correlations.items()
        parts[name] = [w for attack, w in attacked if kinds[attack] == kind]
    groups = {
        name: np.concatenate([part for part in each if part.size])
        for name, each in parts.items()
        if any(part.size for part in each)
    }
    if not groups:
        return None
    return Picture(
        "correlations",
        "Densities of the decoder's output w, its largest and smallest coefficient and "
        f"its standard deviation, for {listing(list(groups))}.",
        "What the analyzer looks at: the decoder's output w. Upper left: all "
        "coefficients; the others: the three statistics that it compares with its "
        "thresholds (vertical lines). Attacked images are those that M gets wrong. "
        "Each density is scaled to its own peak; a lone vertical line stands for "
        "values that do not vary.",
        *(
            _draw_correlations(groups, evaluation.thresholds, scheme)
            for scheme in (_LIGHT, _DARK)
        ),
    )


def _draw_roc(
    curves: Mapping[str, tuple[Values, Values]],
    rates: Sequence[float],
    scheme: _Scheme,
) -> bytes:
    figure = Figure(figsize=(9.6, 4.3), layout="constrained", facecolor=scheme.ground)
    plain, stretched = figure.subplots(1, 2, sharey=True)
    chance = np.geomspace(_SMALLEST_RATE / 10, 1, 60)
    for axes in (plain, stretched):
        _style(axes, scheme)
        axes.plot(chance, chance, color=scheme.muted, linestyle=":", linewidth=1)
        axes.set_xlabel("False-positive rate")
    handles = []
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
    _legend(figure, handles, list(curves), scheme, loc="outside right center")
    return _to_png(figure)


def _draw_correlations(
    groups: Mapping[str, Values],
    thresholds: Mapping[float, Mapping[str, float]],
    scheme: _Scheme,
) -> bytes:
    statistics: list[tuple[str, str, Callable[[Values], Values]]] = [
        ("Coefficients of w", "", np.ravel),
        ("max w, compared with U", "U", lambda w: w.max(axis=1)),
        ("min w, compared with L", "L", lambda w: w.min(axis=1)),
        ("stdev w, compared with σ₀", "sigma0", lambda w: w.std(axis=1)),
    ]
    hue = dict(
        zip(
            ("clean", "untargeted attacks", "targeted attacks"),
            (scheme.muted, scheme.hues[1], scheme.hues[0]),
            strict=True,
        )
    )
    figure = Figure(figsize=(9.6, 5.6), layout="constrained", facecolor=scheme.ground)
    lines = {name: Line2D([], [], color=hue[name], linewidth=2.4) for name in groups}
    for axes, (label, limit, of) in zip(
        figure.subplots(2, 2).ravel(), statistics, strict=True
    ):
        _style(axes, scheme)
        for name, w in groups.items():
            # A coefficient that is not finite makes a statistic that is not.
            with np.errstate(invalid="ignore", over="ignore"):
                _draw_density(axes, _known(of(w)), hue[name], filled=name == "clean")
        for index, (fpr, values) in enumerate(sorted(thresholds.items(), reverse=True)):
            if limit in values:
                lines[f"threshold at {nominal(fpr)} FPR"] = axes.axvline(
                    values[limit],
                    color=scheme.ink,
                    linewidth=1,
                    linestyle=_DASHES[index % len(_DASHES)],
                )
        axes.set_xlabel(label)
        axes.set_ylabel("Density / its peak")
        axes.set_yticks([])
        axes.set_ylim(0, 1.08)
    _legend(
        figure,
        list(lines.values()),
        list(lines),
        scheme,
        loc="outside upper center",
        ncols=5,
    )
    return _to_png(figure)


def _draw_density(axes: Axes, sample: Values, hue: str, *, filled: bool) -> None:
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
    y = estimate(x)
    if filled:
        axes.fill_between(x, y / y.max(), color=hue, alpha=0.25, linewidth=0)
    axes.plot(x, y / y.max(), color=hue, linewidth=1.6)


def _known(values: Values) -> Values:
    finite: Values = values[np.isfinite(values)]
    return finite


def _style(axes: Axes, scheme: _Scheme) -> None:
    axes.set_facecolor(scheme.ground)
    axes.tick_params(which="both", colors=scheme.muted, labelsize=8.5)
    axes.xaxis.label.set_color(scheme.ink)
    axes.yaxis.label.set_color(scheme.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(scheme.muted)


def _legend(
    figure: Figure,
    handles: Sequence[Any],
    names: Sequence[str],
    scheme: _Scheme,
    **where: Any,
) -> None:
    legend = figure.legend(
        handles, names, frameon=False, fontsize=8.5, labelcolor=scheme.ink, **where
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _to_png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without the version in it, the same evaluation gives the same bytes.
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def example_views(evaluation: Evaluation) -> list[Example]:
    """Prepares the attacked images of an evaluation for showing.

    Args:
        evaluation: Its `samples.examples` may be empty.

    Returns:
        One for each, in their order.
    """
    return [
        _view(example, f"example-{index:02d}", evaluation.class_names)
        for index, example in enumerate(evaluation.samples.examples, start=1)
    ]


def strip_png(clean: FloatArray, adversarial: FloatArray) -> bytes:
    """Draws clean image, adversarial image and perturbation side by side.

    The perturbation is stretched so that its largest change spans the range from
    mid-grey to black or white; pixels are enlarged without smoothing.

    Args:
        clean: `(height, width, 1)` or `(height, width, 3)` in [0, 1].
        adversarial: The same shape.

    Returns:
        A PNG with transparent gaps.
    """
    change = adversarial - clean
    largest = float(np.abs(change).max()) or 1.0
    panels = [_to_rgba(p) for p in (clean, adversarial, 0.5 + change / (2 * largest))]
    gap = np.zeros((panels[0].shape[0], _GAP, 4), np.uint8)
    strip = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _to_rgba(image: FloatArray) -> npt.NDArray[np.uint8]:
    grey = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    colour = np.broadcast_to(grey, (*grey.shape[:2], 3))
    opaque = np.full((*grey.shape[:2], 1), 255, np.uint8)
    factor = max(1, _SHOWN_SIDE // max(grey.shape[:2]))
    rgba = np.concatenate([colour, opaque], axis=2)
    return np.ascontiguousarray(rgba.repeat(factor, axis=0).repeat(factor, axis=1))


def _view(example: Attacked, name: str, class_names: Sequence[str]) -> Example:
    true, said, recovered = (
        class_names[index] if 0 <= index < len(class_names) else str(index)
        for index in (example.label, example.predicted, example.recovered)
    )
    fooled = example.predicted != example.label
    right = example.recovered == example.label
    change = example.adversarial - example.clean
    verdict = f"not flagged, score {number(round(example.score, 3))}"
    recovery = "not asked, as nothing was flagged"
    if example.flagged:
        fired = f" by {', '.join(example.fired)}" if example.fired else ""
        verdict = f"flagged{fired}, score {number(round(example.score, 3))}"
        recovery = f"{recovered}, {'the true class' if right else 'a wrong class'}"
    if not fooled:
        outcome = "Flagged, though not fooled" if example.flagged else "Not fooled"
    elif not example.flagged:
        outcome = "Missed"
    else:
        outcome = "Caught and recovered" if right else "Caught, wrong class recovered"
    return Example(
        name,
        f"{example.attack}: {true} {'read as' if fooled else 'still read as'} {said}",
        outcome,
        not fooled or (example.flagged and right),
        f"Clean image of {true}, the same after {example.attack}, and the "
        f"perturbation. {outcome}.",
        strip_png(example.clean, example.adversarial),
        (
            ("Analyzer", verdict),
            ("Recovered", recovery),
            (
                "Change",
                f"at most {np.abs(change).max():.2f} per pixel, "
                f"L2 {np.linalg.norm(change):.2f}",
            ),
        ),
    )
