"""Figure 1: a soft label over a patch of image space, without and with attractors."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_traps import ops
from keras_traps._checks import FloatArray
from keras_traps.attractors import both_answers, decoder_of
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.study import Study, picture
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme, to_png
from keras_traps.layers import QIMDecoder

_GRID = 97
_PERIODS = 3


def figure_1(defence: Defence, test: Dataset) -> Study:
    """Draws the soft label of one class over a patch between two images.

    Args:
        defence: The classifier with its traps.
        test: Clean images; one that C answers with the first class and one that it
            answers with the second are taken.

    Returns:
        Figure 1 of the attractor paper.

    Raises:
        ValueError: If C answers with fewer than two classes.
    """
    scores = tf.function(both_answers(defence.trapped), autograph=False)
    answers = scores(tf.constant(test.images[:500])).numpy()[:, 0].argmax(axis=1)
    classes, first = np.unique(answers, return_index=True)
    if len(classes) < 2:
        raise ValueError("The classifier answers with one class only.")
    order = np.argsort(first)[:2]
    red, blue = (int(c) for c in classes[order])
    ends = test.images[first[order]]
    patch = _patch(decoder_of(defence.trapped), ends[0], ends[1], red)
    found = np.concatenate(
        [
            scores(tf.constant(patch[i : i + 256])).numpy()
            for i in range(0, len(patch), 256)
        ]
    )
    heights = found[:, :, red].reshape(_GRID, _GRID, 2)
    is_red = (found.argmax(axis=2) == red).reshape(_GRID, _GRID, 2)
    names = test.class_names[red], test.class_names[blue]

    def draw(scheme: Scheme) -> bytes:
        return _draw(heights, is_red, names, scheme)

    reach = 2 * _PERIODS * min(decoder_of(defence.trapped).steps)
    name = f"figure1_{test.name}"
    return Study(
        name=name,
        title=f"Figure 1 on {test.name}: a soft label without and with attractors",
        subtitle=f"{_GRID} by {_GRID} images between a {names[0]} and a {names[1]}",
        blocks=(
            picture(
                name,
                "Two surfaces: a smooth slope, and the same slope full of humps",
                f"The soft label of {names[0]!r} over a patch of image space, for the "
                "classifier C and for the trapped model M. To the right one test image "
                f"blends into another, a {names[0]} into a {names[1]}. Along both axes "
                "the pixels of the small step move together, one half of them along "
                f"each axis, through {reach:g} grey levels. The floor shows where the "
                f"model answers {names[0]!r} (orange) or something else.",
                draw,
            ),
            Paragraph(
                "C has one slope, down which an attack finds its way. M has peaks, "
                "where the image holds the class's message, and dips, where it holds "
                "its opposite. The patch was chosen to show them: along a straight "
                "line in any direction the pixels would not keep step, and the humps "
                "would be smaller."
            ),
        ),
        numbers={
            "classes": list(names),
            "soft_label_c": [float(h) for h in _ends(heights[..., 0])],
            "soft_label_m": [float(h) for h in _ends(heights[..., 1])],
        },
    )


def _patch(
    decoder: QIMDecoder, red: FloatArray, blue: FloatArray, target: int
) -> FloatArray:
    """Images `(grid * grid, ...)`: blended along the first axis, moved along both."""
    steps = decoder.pixel_steps.numpy()
    message = decoder.message_bits.numpy()[target]
    small = steps == steps.min()
    half = np.cumsum(small) % 2 == 0
    part = np.linspace(0, 1, _GRID, dtype=np.float32)
    blend = part[:, None] * blue.ravel() + (1 - part[:, None]) * red.ravel()
    held = ops.qim_embed(
        tf.constant(255 * blend), tf.constant(message), tf.constant(steps)
    ).image.numpy()
    # Towards the codewords of the other bit, up or down as there is room.
    sign = np.where(held < 128, 1, -1)
    moved = 2 * _PERIODS * steps.min() * part
    grey = np.where(small, held, 255 * blend)[:, None, :]
    grey = grey + sign[:, None] * (small & half) * moved[:, None, None]
    grey = grey + sign[:, None] * (small & ~half) * moved[None, :, None]
    images = np.clip(grey / 255, 0, 1).astype(np.float32)
    return images.reshape(-1, *red.shape)


def _ends(values: FloatArray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _draw(
    heights: FloatArray,
    is_red: npt.NDArray[np.bool_],
    names: tuple[str, str],
    scheme: Scheme,
) -> bytes:
    figure = Figure(figsize=(9.6, 3.8), facecolor=scheme.ground)
    colours = LinearSegmentedColormap.from_list(
        "two classes", [scheme.hues[0], scheme.ground, scheme.hues[1]]
    )
    part = np.linspace(0, 1, _GRID)
    across, along = np.meshgrid(part, part, indexing="ij")
    for i, title in enumerate(("C", "M")):
        axes: Any = figure.add_subplot(1, 2, i + 1, projection="3d")
        axes.set_position((0.03 + 0.5 * i, -0.05, 0.46, 1.12))
        axes.set_box_aspect((1.15, 1.0, 0.8), zoom=1.0)
        z = heights[..., i]
        low, high = _ends(z)
        floor = low - 0.45 * (high - low)
        axes.contourf(
            across,
            along,
            is_red[..., i].astype(float),
            levels=[-0.5, 0.5, 1.5],
            zdir="z",
            offset=floor,
            colors=[scheme.hues[0], scheme.hues[1]],
            alpha=0.35,
        )
        axes.plot_surface(
            across,
            along,
            z,
            cmap=colours,
            rcount=_GRID,
            ccount=_GRID,
            linewidth=0,
            antialiased=True,
        )
        axes.set_zlim(floor, high)
        ticks = MaxNLocator(5).tick_values(low, high)
        axes.set_zticks([tick for tick in ticks if low - 1e-3 <= tick <= high + 1e-3])
        axes.view_init(elev=28, azim=-118)
        axes.set_facecolor(scheme.ground)
        axes.set_xlabel(f"{names[0]} → {names[1]}", color=scheme.ink, labelpad=-8)
        axes.set_ylabel("small-step pixels", color=scheme.ink, labelpad=-8)
        axes.set_zlabel(f"soft label of {names[0]}", color=scheme.ink, labelpad=2)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.tick_params(axis="z", colors=scheme.muted, labelsize=8)
        axes.set_title(f"({'ab'[i]}) {title}", color=scheme.ink, fontsize=11, y=0.9)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_pane_color((0, 0, 0, 0))
            axis.line.set_color(scheme.muted)
        axes.grid(False)
    return to_png(figure)
