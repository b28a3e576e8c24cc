"""What every figure is drawn and written with."""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.stats import gaussian_kde

from keras_traps._files import make_writable, write_atomically
from keras_traps.evaluation.render import plain

Values = npt.NDArray[np.floating]
INK, MUTED = "#1d2327", "#6b747c"
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Of the palette of Okabe and Ito, apart under the common colour blindnesses."""
TWO_WAYS = LinearSegmentedColormap.from_list("", [HUES[0], "white", HUES[1]])

_MOST_SAMPLES, _POINTS, _GRID = 5_000, 400, 4_000


@dataclasses.dataclass(frozen=True)
class Result:
    """A figure's pictures by name, its numbers, and what else `pages.md.j2` tells."""

    figure: str
    dataset: str
    title: str
    pictures: Mapping[str, Figure]
    numbers: Mapping[str, Any]
    words: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def write(result: Result, provenance: Mapping[str, Any], directory: Path) -> Path:
    """Writes a figure as PNG, JSON and Markdown; what is not finite is told as none."""
    folder = directory / "figures"
    make_writable(folder, name="directory")
    end = f"_{result.dataset}" if result.dataset else ""
    pictures = {f"{name}{end}": picture for name, picture in result.pictures.items()}
    for name, picture in pictures.items():
        write_atomically(folder / f"{name}.png", to_png(picture))
    told = {
        "title": result.title,
        "numbers": plain(result.numbers),
        "provenance": plain(provenance),
    }
    text = json.dumps(told, indent=1, allow_nan=False) + "\n"
    write_atomically(directory / f"{result.figure}{end}.json", text.encode())
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    pages.filters |= {"cell": _cell, "tabled": _tabled}
    about = {"figure": result.figure, "words": result.words, "pictures": pictures}
    page = pages.get_template("pages.md.j2").render(**told, **about)
    path = directory / f"{result.figure}{end}.md"
    write_atomically(path, (page.strip() + "\n").encode())
    return path


def quantiles(values: npt.ArrayLike) -> dict[str, float | None]:
    """Returns median and 5 % and 95 % quantile of what is finite; `None` of nothing."""
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    names = ("median", "low", "high")
    if not finite.size:
        return dict.fromkeys(names)
    found = np.quantile(finite, [0.5, 0.05, 0.95])
    return dict(zip(names, found.tolist(), strict=True))


def density(sample: npt.ArrayLike) -> tuple[Values, Values]:
    """Estimates a density, scaled to a peak of 1; of a constant it is one point."""
    array = np.asarray(sample, np.float64)
    values = np.sort(array[np.isfinite(array)])
    if values.size > _MOST_SAMPLES:
        # Evenly spaced ranks keep the distribution, and the extremes.
        ranks = np.linspace(0, values.size - 1, _MOST_SAMPLES).round().astype(np.int64)
        values = values[ranks]
    largest = float(np.abs(values).max(initial=1e-12))
    if not values.size or np.ptp(values) <= 1e-9 * largest:
        return values[:1], np.ones(values[:1].shape)
    estimate = gaussian_kde(values)
    margin = 3 * float(np.sqrt(estimate.covariance[0, 0]))
    x = np.linspace(values[0] - margin, values[-1] + margin, _POINTS)
    y = estimate(x)
    return x, y / y.max()


def overlap(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Measures the area that the densities of two samples share, from 0 to 1."""
    one, other = density(first), density(second)
    if min(len(one[0]), len(other[0])) < 2:
        return float(np.array_equal(one[0], other[0]))
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
        x, y = density(array)
        if not len(x):
            continue
        x = 10**x if logarithmic else x
        peak = float(x[np.argmax(y)])
        if len(x) == 1:
            axes.axvline(peak, ymax=0.92, color=colour, linewidth=2.4)
        else:
            axes.fill_between(x, y, color=colour, alpha=0.25, linewidth=0)
            axes.plot(x, y, color=colour, linewidth=1.6)
        axes.text(peak, 1.02, name, ha="center", color=colour, fontsize=9.5)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=label, ylabel="Density / its peak", yticks=[], ylim=(0, 1.16))


def draw_cosines(samples: Mapping[str, Values], label: str, *, limit: float) -> Figure:
    """Draws densities of cosines by name; a dotted line is at the limit."""
    figure = blank(6.4, 3.4)
    axes = figure.subplots()
    draw_densities(axes, samples, label)
    axes.axvline(limit, color=MUTED, linestyle=":", linewidth=1)
    return figure


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
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={"color": colour, "linewidth": 2.4},
    )


def show_pixels(axes: Axes, pixels: Values, *, signed: bool = False) -> None:
    """Shows an image, or a change of one, of which the largest has full colour."""
    if signed:
        reach = float(np.abs(pixels).max()) or 1.0
        axes.imshow(pixels, cmap=TWO_WAYS.reversed(), vmin=-reach, vmax=reach)
    else:
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(MUTED)


def to_png(figure: Figure) -> bytes:
    """Renders a picture; the same one gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def _tabled(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """All single numbers by name, and a frame of each list of rows."""
    rows = {
        key: pd.json_normalize(value).astype(object)
        for key, value in numbers.items()
        if isinstance(value, list) and value and isinstance(value[0], Mapping)
    }
    flat = pd.json_normalize({k: v for k, v in numbers.items() if k not in rows})
    return {"single": [*flat.iloc[0].items()], "rows": rows}


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    if value is None or value != value:  # NaN is where a row has no such number.
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
