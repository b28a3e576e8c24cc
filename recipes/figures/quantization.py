"""Figure 4: how far a pixel is from a codeword, with the pixels of a real image."""

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_traps import ops
from keras_traps._checks import FloatArray
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.study import Study, picture
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme, style_axes, to_png

_PERIODS = 2.5
_DOTS = 7


def figure_4(defence: Defence, test: Dataset) -> Study:
    """Draws the distance to a codeword over the grey level, for both step sizes.

    Args:
        defence: The classifier with its traps.
        test: Clean images; the pixels of the first are marked.

    Returns:
        Figure 4 of the attractor paper.
    """
    decoder = decoder_of(defence.trapped)
    steps = sorted(set(decoder.steps))
    grey = np.unique(np.round(255 * test.images[0]))
    spans = {step: _span(step, grey) for step in steps}

    def draw(scheme: Scheme) -> bytes:
        return _draw(spans, grey, scheme)

    name = f"figure4_{test.name}"
    listed = " and ".join(f"{step:g}" for step in steps)
    return Study(
        name=name,
        title=f"Figure 4 on {test.name}: the distance of a pixel to a codeword",
        subtitle=f"Step sizes {listed}",
        blocks=(
            picture(
                name,
                "Triangle waves of the distance to the codewords of both bits",
                "The distance q of a pixel to the nearest codeword of the bit 0 and of "
                "the bit 1, by its grey level, for each step size. Codewords lie where "
                "a line meets the floor. Dots are some of the grey levels in the first "
                "test image, placed for the bit 1; their height is their distance. An "
                "arrow goes where a gradient that raises the correlation with the bit "
                "1 leads: to its nearest codeword, or to the end of the range before.",
                draw,
            ),
            Paragraph(
                "The two distances always add up to the step. So the distance of an "
                "image to a message is linear in the message's bits, and one wave per "
                "pixel serves all messages."
            ),
        ),
        numbers={
            "steps": list(steps),
            "grey_levels": len(grey),
            "shown": {f"{step:g}": list(span) for step, span in spans.items()},
        },
    )


def _span(step: float, grey: FloatArray) -> tuple[float, float]:
    """The grey levels to show: all of them, or the periods with the most pixels."""
    width = 2 * _PERIODS * step
    if width >= 255:
        return 0.0, 255.0
    lows = np.arange(0, 256 - width)
    counts = [np.sum((grey >= low) & (grey <= low + width)) for low in lows]
    low = float(lows[int(np.argmax(counts))])
    return low, low + width


def _distance(grey: FloatArray, bit: int, step: float) -> FloatArray:
    found: FloatArray = ops.qim_distance(
        tf.constant(grey.reshape(-1, 1), tf.float32),
        tf.constant([[bit]]),
        tf.constant([step], tf.float32),
        tf.ones(1),
    ).numpy()[:, 0]
    return found


def _draw(
    spans: dict[float, tuple[float, float]], grey: FloatArray, scheme: Scheme
) -> bytes:
    figure = Figure(figsize=(9.6, 3.2), layout="constrained", facecolor=scheme.ground)
    for axes, (step, (low, high)) in zip(
        np.atleast_1d(figure.subplots(1, len(spans))), spans.items(), strict=True
    ):
        style_axes(axes, scheme)
        x = np.linspace(low, high, 1201, dtype=np.float32)
        for bit in (0, 1):
            axes.plot(
                x,
                _distance(x, bit, step),
                color=scheme.hues[bit],
                linewidth=1.8,
                label=f"distance to the bit {bit}",
            )
        # An arrow of a pixel further out would leave the picture.
        first, last = (
            (low + step if low > 0 else 0),
            (high - step if high < 255 else 255),
        )
        dots = grey[(grey >= first) & (grey <= last)].astype(np.float32)
        dots = dots[np.linspace(0, len(dots) - 1, min(_DOTS, len(dots))).astype(int)]
        heights = _distance(dots, 1, step)
        ahead = _distance(dots + heights, 1, step) < 1e-3 * step
        ends = np.clip(np.where(ahead, dots + heights, dots - heights), 0, 255)
        for dot, end, height in zip(dots, ends, heights, strict=True):
            axes.annotate(
                "",
                (end, height),
                (dot, height),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": scheme.muted,
                    "linewidth": 1,
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
            )
            axes.plot([end, end], [0, height], ":", color=scheme.muted, linewidth=0.8)
        axes.plot(
            dots,
            heights,
            "o",
            color=scheme.ink,
            markersize=5,
            zorder=3,
            clip_on=False,
            label="pixels of the image",
        )
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1.05 * step)
        axes.set_title(f"Step {step:g}", color=scheme.ink, fontsize=10)
        axes.set_xlabel("Pixel, grey levels")
        axes.set_ylabel("Distance q, grey levels")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=scheme.ink,
    )
    return to_png(figure)
