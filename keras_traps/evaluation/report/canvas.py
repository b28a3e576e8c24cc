"""What every plot stands on: colours, axes, densities, and the PNG at the end."""

from __future__ import annotations

import dataclasses
import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from keras_traps.evaluation.report.density import Curve


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The colours of a plot that depend on what it stands on."""

    ground: str
    ink: str
    muted: str
    hues: tuple[str, ...]


# The palette of Okabe and Ito, which stays apart under the common colour
# blindnesses; on a dark ground its blues and its orange are too dark or too alike.
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LIGHT = Scheme("#ffffff", "#1d2327", "#6b747c", _HUES)
DARK = Scheme(
    "#14181b", "#e4e8ea", "#98a2aa", ("#4fa3dc", "#f0803c", *_HUES[2:5], "#F0E442")
)

_DPI = 144


def style_axes(axes: Axes, scheme: Scheme) -> None:
    """Gives axes the report's look: two spines, quiet ticks.

    Args:
        axes: The axes, before or after something is drawn on them.
        scheme: The colours.
    """
    axes.set_facecolor(scheme.ground)
    axes.tick_params(which="both", colors=scheme.muted, labelsize=8.5)
    axes.xaxis.label.set_color(scheme.ink)
    axes.yaxis.label.set_color(scheme.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(scheme.muted)


def draw_density(
    axes: Axes, curve: Curve | float | None, hue: str, filled: bool
) -> None:
    """Draws a density that is scaled to its own peak.

    Args:
        axes: Where to.
        curve: Places and densities; a number for a sample that does not vary, drawn as
            a line, and `None` for an empty one.
        hue: Its colour.
        filled: Whether the area under it is tinted.
    """
    if curve is None:
        return
    if isinstance(curve, float):
        axes.axvline(curve, ymax=0.92, color=hue, linewidth=2.4)
        return
    x, y = curve
    if filled:
        axes.fill_between(x, y, color=hue, alpha=0.25, linewidth=0)
    axes.plot(x, y, color=hue, linewidth=1.6)


def to_png(figure: Figure) -> bytes:
    """Renders a figure without any global state of matplotlib.

    Args:
        figure: The figure.

    Returns:
        A PNG; the same figure gives the same bytes.
    """
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without the version in it, the same evaluation gives the same bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
