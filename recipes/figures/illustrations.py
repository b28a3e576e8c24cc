"""Figures 1, 2 and 4: what attractors look like, on one image or two."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from figures.drawing import HUES, INK, MUTED, Result, blank, style_axes
from figures.gradients import both_answers
from keras_traps import ops
from keras_traps._checks import FloatArray
from keras_traps.attacks import Attack
from keras_traps.attractors import ForensicAnalyzer, decoder_of
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder

# Figure 1: images along each side of the patch, and periods of the small step.
_GRID, _PERIODS = 97, 3
# Figure 2: among how many images one is looked for.
_FEW = 50
# Figure 4: periods that are shown, and pixels that are marked.
_SHOWN_PERIODS, _DOTS = 2.5, 7


def figure_1(trapped: keras.Model, test: Dataset) -> Result:
    """Draws the soft label of one class over a patch between two images.

    One is answered by C with the first class that there is, the other with the second.
    """
    decoder = decoder_of(trapped)
    scores = tf.function(both_answers(trapped), autograph=False)
    answers = scores(tf.constant(test.images[:500])).numpy()[:, 0].argmax(axis=1)
    classes, first = np.unique(answers, return_index=True)
    if len(classes) < 2:
        raise ValueError("The classifier answers with one class only.")
    order = np.argsort(first)[:2]
    high, low = (int(c) for c in classes[order])
    patch = _patch(decoder, *test.images[first[order]], target=high)
    found = np.concatenate(
        [
            scores(tf.constant(patch[i : i + 256])).numpy()
            for i in range(0, len(patch), 256)
        ]
    )
    heights = found[:, :, high].reshape(_GRID, _GRID, 2)
    is_high = (found.argmax(axis=2) == high).reshape(_GRID, _GRID, 2)
    names = test.class_names[high], test.class_names[low]
    name = f"figure1_{test.name}"
    return Result(
        name=name,
        title=f"Figure 1 on {test.name}: a soft label without and with attractors",
        pictures={name: _draw_surfaces(heights, is_high, names)},
        text=(
            f"The soft label of {names[0]!r} over a patch of image space, {_GRID} by "
            f"{_GRID} images, for the classifier C and for the trapped model M. To the "
            f"right one test image blends into another, a {names[0]} into a "
            f"{names[1]}. Along both axes the pixels of the small step move together, "
            "one half of them along each axis, through "
            f"{2 * _PERIODS * min(decoder.steps):g} grey levels. The floor shows where "
            f"the model answers {names[0]!r} (orange) or something else.\n\n"
            "The patch was chosen to show the peaks of M, where the image holds the "
            "class's message: along a straight line in any direction the pixels would "
            "not keep step."
        ),
        numbers={
            "classes": list(names),
            "soft_label_c": _ends(heights[..., 0]),
            "soft_label_m": _ends(heights[..., 1]),
        },
    )


def figure_2(
    trapped: keras.Model, analyzer: ForensicAnalyzer, test: Dataset, attack: Attack
) -> Result:
    """Shows C, W and M on one image, before and after an untargeted attack on M.

    It is the first that C gets right and M, attacked, gets wrong, or the first of all.
    """
    few = test.take(min(_FEW, len(test)))
    attacked = attack(trapped, few.images, few.labels, output="scores")
    scores = both_answers(trapped)
    right = scores(tf.constant(few.images)).numpy()[:, 0].argmax(axis=1) == few.labels
    index = int(np.argmax(right & attacked.success))
    label = int(few.labels[index])
    images = np.stack([few.images[index], attacked.images[index]])
    both = scores(tf.constant(images)).numpy()
    w = decoder_of(trapped)(tf.constant(images)).numpy()
    verdict = analyzer.detect(images)
    answers = [few.class_names[k] for k in both[:, 1].argmax(axis=1)]
    recovered = [few.class_names[k] for k in verdict.recovered]
    words = [
        f"{when}: M answers {answers[i]}; "
        + (
            f"flagged, recovered as {recovered[i]}"
            if verdict.is_adversarial[i]
            else "not flagged"
        )
        for i, when in enumerate(("clean", f"after {attack.name}"))
    ]
    limits = analyzer.thresholds
    columns = (both[:, 0], w, both[:, 1])
    picture = _draw_scheme(images, columns, (limits.lower, limits.upper), words, label)
    name = f"figure2_{test.name}"
    return Result(
        name=name,
        title=f"Figure 2 on {test.name}: what the attacker and the analyzer see",
        pictures={name: picture},
        text=(
            f"A test image of class {few.class_names[label]} enters the classifier C "
            "and the decoder W; their sum, scaled to norm 1, is M, which is all that "
            "an attacker sees. The analyzer looks at W alone. Upper row: the clean "
            f"image. Lower row: the same after {attack.name} on M. The bar of the true "
            "class is filled. Dotted lines are the analyzer's thresholds L and U at "
            f"{100 * limits.fpr:g} % false positives; its third condition, the spread "
            "of w, is not drawn."
        ),
        numbers={
            "label": few.class_names[label],
            "answers": answers,
            "flagged": [bool(flag) for flag in verdict.is_adversarial],
            "recovered": recovered[1],
            "c": both[:, 0].tolist(),
            "w": w.tolist(),
            "m": both[:, 1].tolist(),
        },
    )


def figure_4(trapped: keras.Model, test: Dataset) -> Result:
    """Draws the distance to a codeword over the grey level, for both step sizes.

    Pixels of the first image are marked.
    """
    steps = sorted(set(decoder_of(trapped).steps))
    grey = np.unique(np.round(255 * test.images[0]))
    spans = {step: _span(step, grey) for step in steps}
    name = f"figure4_{test.name}"
    return Result(
        name=name,
        title=f"Figure 4 on {test.name}: the distance of a pixel to a codeword",
        pictures={name: _draw_distances(spans, grey)},
        text=(
            "The distance q of a pixel to the nearest codeword of the bit 0 and of the "
            "bit 1, by its grey level, for each step size. Codewords lie where a line "
            "meets the floor. Dots are some of the grey levels in the first test "
            "image, placed for the bit 1; their height is their distance. An arrow "
            "goes where a gradient that raises the correlation with the bit 1 leads: "
            "to its nearest codeword, or to the end of the range before.\n\n"
            "The two distances always add up to the step, so one wave per pixel serves "
            "all messages."
        ),
        numbers={
            "steps": steps,
            "grey_levels": len(grey),
            "shown": {f"{step:g}": list(span) for step, span in spans.items()},
        },
    )


def _patch(
    decoder: QIMDecoder, high: FloatArray, low: FloatArray, *, target: int
) -> FloatArray:
    """Images `(grid * grid, ...)`: blended along the first axis, moved along both."""
    steps = decoder.pixel_steps.numpy()
    message = decoder.message_bits.numpy()[target]
    small = steps == steps.min()
    half = np.cumsum(small) % 2 == 0
    part = np.linspace(0, 1, _GRID, dtype=np.float32)
    blend = part[:, None] * low.ravel() + (1 - part[:, None]) * high.ravel()
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
    return images.reshape(-1, *high.shape)


def _ends(values: FloatArray) -> list[float]:
    return [float(values.min()), float(values.max())]


def _draw_surfaces(
    heights: FloatArray, is_high: npt.NDArray[np.bool_], names: tuple[str, str]
) -> Figure:
    figure = Figure(figsize=(9.6, 3.8), facecolor="white")
    colours = LinearSegmentedColormap.from_list(
        "two classes", [HUES[0], "white", HUES[1]]
    )
    part = np.linspace(0, 1, _GRID)
    across, along = np.meshgrid(part, part, indexing="ij")
    for i, title in enumerate(("(a) C", "(b) M")):
        axes: Any = figure.add_subplot(1, 2, i + 1, projection="3d")
        axes.set_position((0.03 + 0.5 * i, -0.05, 0.46, 1.12))
        axes.set_box_aspect((1.15, 1.0, 0.8), zoom=1.0)
        z = heights[..., i]
        low, high = _ends(z)
        floor = low - 0.45 * (high - low)
        below = {"levels": [-0.5, 0.5, 1.5], "colors": HUES[:2], "alpha": 0.35}
        answers = is_high[..., i].astype(float)
        axes.contourf(across, along, answers, zdir="z", offset=floor, **below)
        fine = {"rcount": _GRID, "ccount": _GRID, "linewidth": 0}
        axes.plot_surface(across, along, z, cmap=colours, **fine)
        axes.set_zlim(floor, high)
        axes.view_init(elev=28, azim=-118)
        axes.set_xlabel(f"{names[0]} → {names[1]}", labelpad=-8)
        axes.set_ylabel("small-step pixels", labelpad=-8)
        axes.set_zlabel(f"soft label of {names[0]}", labelpad=2)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, fontsize=11, y=0.9)
        axes.grid(False)
    return figure


def _draw_scheme(
    images: FloatArray,
    columns: tuple[FloatArray, ...],
    limits: tuple[float, float],
    words: list[str],
    label: int,
) -> Figure:
    figure = blank(9.6, 4.3)
    heads = ("x", "C(x), soft labels", "W(x), correlations", "M(x), what is seen")
    rows: Any = figure.subfigures(2, 1, hspace=0.04)
    for i, part in enumerate(rows):
        part.suptitle(words[i], fontsize=10.5, x=0.01, ha="left")
        shown, *panels = part.subplots(1, 4, width_ratios=(0.8, 1, 1, 1))
        shown.imshow(np.squeeze(images[i]), cmap="gray", vmin=0, vmax=1)
        shown.set_axis_off()
        for axes, values, hue in zip(panels, columns, HUES, strict=False):
            _bars(axes, values[i], label, hue)
            # Both rows at one scale.
            axes.set_ylim(min(values.min(), 0) * 1.12, values.max() * 1.12)
        for limit in limits:
            panels[1].axhline(limit, color=INK, linewidth=1, linestyle=":")
        for axes, head in zip((shown, *panels), heads, strict=True):
            if i == 0:
                axes.set_title(head, fontsize=9.5)
            else:
                axes.set_xlabel("Class", fontsize=9)
    return figure


def _bars(axes: Axes, values: FloatArray, label: int, hue: str) -> None:
    style_axes(axes)
    places = np.arange(len(values))
    filled = [hue if k == label else "none" for k in places]
    axes.bar(places, values, color=filled, edgecolor=hue, linewidth=1.2, width=0.75)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xticks(places)


def _span(step: float, grey: FloatArray) -> tuple[float, float]:
    """The grey levels to show: all of them, or the periods with the most pixels."""
    width = 2 * _SHOWN_PERIODS * step
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


def _draw_distances(
    spans: dict[float, tuple[float, float]], grey: FloatArray
) -> Figure:
    figure = blank(9.6, 3.2)
    for axes, (step, (low, high)) in zip(
        np.atleast_1d(figure.subplots(1, len(spans))), spans.items(), strict=True
    ):
        style_axes(axes)
        x = np.linspace(low, high, 1201, dtype=np.float32)
        for bit in (0, 1):
            words = f"distance to the bit {bit}"
            axes.plot(x, _distance(x, bit, step), color=HUES[bit], label=words)
        # An arrow of a pixel further out would leave the picture.
        first = low + step if low > 0 else 0
        last = high - step if high < 255 else 255
        dots = grey[(grey >= first) & (grey <= last)].astype(np.float32)
        dots = dots[np.linspace(0, len(dots) - 1, min(_DOTS, len(dots))).astype(int)]
        heights = _distance(dots, 1, step)
        ahead = _distance(dots + heights, 1, step) < 1e-3 * step
        ends = np.clip(np.where(ahead, dots + heights, dots - heights), 0, 255)
        arrow = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 0, "shrinkB": 0}
        for dot, end, height in zip(dots, ends, heights, strict=True):
            axes.annotate("", (end, height), (dot, height), arrowprops=arrow)
            axes.plot([end, end], [0, height], ":", color=MUTED, linewidth=0.8)
        words = "pixels of the image"
        axes.plot(dots, heights, "o", color=INK, clip_on=False, label=words)
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1.05 * step)
        axes.set_title(f"Step {step:g}", fontsize=10)
        axes.set_xlabel("Pixel, grey levels")
        axes.set_ylabel("Distance q, grey levels")
    shown = axes.get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper center", ncols=3, frameon=False)
    return figure
