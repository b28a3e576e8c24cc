"""What every figure is drawn and written with."""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.stats import gaussian_kde

from keras_traps._files import make_writable, write_atomically

Values = npt.NDArray[np.floating]
INK, MUTED = "#1d2327", "#6b747c"
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Of the palette of Okabe and Ito, apart under the common colour blindnesses."""

_DPI = 144
_MOST_SAMPLES = 5_000
_POINTS = 400
_GRID = 4_000


@dataclasses.dataclass(frozen=True)
class Result:
    """A figure: pictures, words and numbers."""

    name: str
    title: str
    pictures: Mapping[str, Figure]
    text: str
    numbers: Mapping[str, Any]


def write(result: Result, provenance: Mapping[str, Any], directory: Path) -> Path:
    """Writes a figure as PNG, JSON and Markdown."""
    folder = directory / "figures"
    for place in (directory, folder):
        make_writable(place, name="directory")
    shown = []
    for name, picture in result.pictures.items():
        write_atomically(folder / f"{name}.png", to_png(picture))
        shown.append(f"![{name}](figures/{name}.png)")
    content = {
        "title": result.title,
        "numbers": result.numbers,
        "provenance": provenance,
    }
    told = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(directory / f"{result.name}.json", told.encode())
    parts = [f"# {result.title}", *shown, result.text, "## Numbers"]
    parts += _tables(result.numbers)
    parts += ["## Where this comes from", *_tables(provenance)]
    path = directory / f"{result.name}.md"
    write_atomically(path, ("\n\n".join(parts) + "\n").encode())
    return path


def quantiles(values: npt.ArrayLike) -> dict[str, float | None]:
    """Returns median and 5 % and 95 % quantile of what is finite; `None` of nothing."""
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    names = {"median": 0.5, "low": 0.05, "high": 0.95}
    if not finite.size:
        return dict.fromkeys(names)
    return {name: float(np.quantile(finite, rank)) for name, rank in names.items()}


def density(sample: Values) -> tuple[Values, Values] | None:
    """Estimates a density with Gaussian kernels, scaled to a peak of 1."""
    values = np.sort(sample[np.isfinite(sample)].astype(np.float64))
    if values.size > _MOST_SAMPLES:
        # Evenly spaced ranks keep the distribution, and the extremes.
        ranks = np.linspace(0, values.size - 1, _MOST_SAMPLES).round().astype(np.int64)
        values = values[ranks]
    if values.size < 2:
        return None
    spread = values[-1] - values[0]
    if spread <= 1e-9 * max(1e-12, float(np.abs(values).max())):
        return None
    estimate = gaussian_kde(values)
    margin = 3 * float(np.sqrt(estimate.covariance[0, 0]))
    x = np.linspace(values[0] - margin, values[-1] + margin, _POINTS)
    y = estimate(x)
    return x, y / y.max()


def overlap(first: Values, second: Values) -> float:
    """Measures the area that the densities of two samples share, from 0 to 1.

    Where no density can be estimated it is 1 if the medians are equal, and else 0.
    """
    middles = [quantiles(sample)["median"] for sample in (first, second)]
    one, other = density(np.asarray(first)), density(np.asarray(second))
    if one is None or other is None:
        return float(middles[0] == middles[1])
    ends = np.concatenate([one[0], other[0]])
    grid = np.linspace(ends.min(), ends.max(), _GRID)
    heights = [np.interp(grid, *curve, left=0, right=0) for curve in (one, other)]
    scaled = [height / np.trapezoid(height, grid) for height in heights]
    return float(np.trapezoid(np.minimum(*scaled), grid))


def blank(width: float, height: float) -> Figure:
    """Returns an empty picture of a size in inches, without matplotlib's globals."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def style_axes(axes: Axes) -> None:
    """Gives axes the figures' look: two spines, quiet ticks."""
    axes.tick_params(which="both", colors=MUTED, labelsize=8.5)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)


def draw_densities(
    axes: Axes, samples: Mapping[str, Values], label: str, *, logarithmic: bool = False
) -> None:
    """Draws a density for each sample, with its name beside its peak."""
    style_axes(axes)
    for (name, values), colour in zip(samples.items(), HUES, strict=False):
        array = np.asarray(values, np.float64)
        if logarithmic:
            with np.errstate(divide="ignore"):
                array = np.log10(array)
        middle = quantiles(array)["median"]
        if middle is None:
            continue
        curve = density(array)
        if curve is None:
            peak = 10**middle if logarithmic else middle
            axes.axvline(peak, ymax=0.92, color=colour, linewidth=2.4)
        else:
            x = 10 ** curve[0] if logarithmic else curve[0]
            axes.fill_between(x, curve[1], color=colour, alpha=0.25, linewidth=0)
            axes.plot(x, curve[1], color=colour, linewidth=1.6)
            peak = float(x[np.argmax(curve[1])])
        axes.text(peak, 1.02, name, ha="center", color=colour, fontsize=9.5)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.set_ylabel("Density / its peak")
    axes.set_yticks([])
    axes.set_ylim(0, 1.16)


def draw_norms(
    outputs: Mapping[str, Values], gradients: Mapping[str, Values]
) -> Figure:
    """Draws densities of 1-norms by name: (a) of outputs and (b) of gradients of J."""
    figure = blank(9.6, 3.3)
    left, right = figure.subplots(1, 2)
    draw_densities(left, outputs, "(a) 1-norm of the output", logarithmic=True)
    label = "(b) 1-norm of the gradient of J, per unit of pixel value"
    draw_densities(right, gradients, label, logarithmic=True)
    return figure


def draw_box(axes: Axes, place: float, values: npt.NDArray[Any], colour: str) -> None:
    """Draws a box over the middle half, with whiskers from 5 % to 95 %."""
    line = {"color": colour, "linewidth": 1.4}
    axes.boxplot(
        [values],
        positions=[place],
        widths=0.6,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        boxprops={"edgecolor": colour, "facecolor": "white", "linewidth": 1.4},
        medianprops={"color": colour, "linewidth": 2.4},
        whiskerprops=line,
        capprops=line,
    )


def to_png(figure: Figure) -> bytes:
    """Renders a picture; the same one gives the same bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all single numbers, and one of each list of rows."""
    single, several = {}, []
    for key, value in numbers.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            frame = pd.json_normalize(value)
            rows = [list(frame.columns), *frame.to_numpy(object).tolist()]
            several.append(f"{key}:\n\n{_table(rows)}")
        else:
            single[key] = value
    flat = pd.json_normalize(single).iloc[0].to_dict() if single else {}
    return [_table([("", "value"), *flat.items()]), *several]


def _table(rows: Sequence[Sequence[Any]]) -> str:
    head, *others = [[_cell(value) for value in row] for row in rows]
    lines = [head, ["---"] * len(head), *others]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
