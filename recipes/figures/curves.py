"""Densities of a figure: drawn side by side, and how far two overlap."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from keras_traps.evaluation.report.canvas import Scheme, draw_density, style_axes
from keras_traps.evaluation.report.density import density

Values = npt.NDArray[np.floating]

_GRID = 4000


def overlap(first: Values, second: Values) -> float:
    """Measures the area that two densities share.

    Args:
        first: `(values,)`; what is not finite is left out.
        second: The same.

    Returns:
        From 0 for densities that do not meet to 1 for one and the same. Where no
        density can be estimated, because values do not vary, 1 if the medians are
        equal and else 0.

    Raises:
        ValueError: If nothing is finite in one of them.
    """
    curves = [density(np.asarray(sample)) for sample in (first, second)]
    if curves[0] is None or curves[1] is None:
        middles = [_median(first), _median(second)]
        return float(middles[0] == middles[1])
    ends = [x for curve in curves if curve is not None for x in (curve[0])]
    grid = np.linspace(min(ends), max(ends), _GRID)
    heights = []
    for curve in curves:
        if curve is not None:
            height = np.interp(grid, *curve, left=0, right=0)
            heights.append(height / np.trapezoid(height, grid))
    return float(np.trapezoid(np.minimum(*heights), grid))


def draw_panel(
    axes: Axes,
    samples: Mapping[str, Values],
    scheme: Scheme,
    label: str,
    *,
    logarithmic: bool = False,
    hues: Mapping[str, str] | None = None,
) -> None:
    """Draws a density for each sample, with its name beside its peak.

    Args:
        axes: Where to.
        samples: `(values,)` by name; of a logarithmic axis, those above 0 are drawn.
        scheme: The colours.
        label: The axis's label with its unit.
        logarithmic: Whether the axis is, the density then being that of the logarithm.
            Defaults to `False`.
        hues: Colours by name. Defaults to the scheme's in their order.
    """
    style_axes(axes, scheme)
    for (name, values), hue in zip(samples.items(), scheme.hues, strict=False):
        colour = hue if hues is None else hues[name]
        array = np.asarray(values, np.float64)
        if logarithmic:
            with np.errstate(divide="ignore"):
                array = np.log10(array)
        curve = density(array)
        middle = _median(array)
        if curve is None:
            place = 10**middle if logarithmic else middle
            draw_density(axes, place, colour, filled=False)
            peak = place
        else:
            x = 10 ** curve[0] if logarithmic else curve[0]
            draw_density(axes, (x, curve[1]), colour, filled=True)
            peak = float(x[np.argmax(curve[1])])
        axes.annotate(
            name,
            (peak, 1.0),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=colour,
            fontsize=9.5,
        )
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.set_ylabel("Density / its peak")
    axes.set_yticks([])
    axes.set_ylim(0, 1.16)


def _median(values: Values) -> float:
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    if not finite.size:
        raise ValueError("There is no finite number in a sample to be drawn.")
    return float(np.median(finite))
