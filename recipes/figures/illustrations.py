"""Figures 1, 2 and 4: what attractors look like, on one image or two."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from matplotlib.figure import Figure

from figures.drawing import HUES, INK, MUTED, TWO_WAYS, Result, blank, style_axes
from figures.gradients import both_answers, map_batches
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
    """Draws a soft label over a patch between images of the first two classes of C."""
    decoder = decoder_of(trapped)
    scores = both_answers(trapped)
    answers = map_batches(scores, test.images[:500])[:, 0].argmax(axis=1)
    classes, first = np.unique(answers, return_index=True)
    if len(classes) < 2:
        raise ValueError("The classifier answers with one class only.")
    order = np.argsort(first)[:2]
    high, low = (int(c) for c in classes[order])
    patch = _patch(decoder, *test.images[first[order]], target=high)
    found = map_batches(scores, patch)
    heights = found[:, :, high].reshape(_GRID, _GRID, 2)
    is_high = (found.argmax(axis=2) == high).reshape(_GRID, _GRID, 2)
    names = test.class_names[high], test.class_names[low]
    ends = [(of.min(), of.max()) for of in np.moveaxis(heights, 2, 0)]
    return Result(
        figure="figure1",
        dataset=test.name,
        title=f"Figure 1 on {test.name}: a soft label without and with attractors",
        pictures={"figure1": _draw_surfaces(heights, is_high, names)},
        numbers={"classes": names, "soft_label_c": ends[0], "soft_label_m": ends[1]},
        words={"grid": _GRID, "moved": f"{2 * _PERIODS * min(decoder.steps):g}"},
    )


def figure_2(
    trapped: keras.Model, analyzer: ForensicAnalyzer, test: Dataset, attack: Attack
) -> Result:
    """Shows C, W and M on one image, before and after an untargeted attack on M."""
    few = test.take(min(_FEW, len(test)))
    attacked = attack(trapped, few.images, few.labels, output="scores")
    scores = both_answers(trapped)
    right = scores(tf.constant(few.images)).numpy()[:, 0].argmax(axis=1) == few.labels
    # The first of all where there is none.
    index = int(np.argmax(right & attacked.success))
    label = int(few.labels[index])
    images = np.stack([few.images[index], attacked.images[index]])
    c, m = np.moveaxis(scores(tf.constant(images)).numpy(), 1, 0)
    evidence = analyzer.evidence(images)
    w, verdict = evidence[:, 0], analyzer.judge(evidence)
    answers = [few.class_names[k] for k in m.argmax(axis=1)]
    recovered = [few.class_names[k] for k in verdict.recovered]
    heads = []
    for i, when in enumerate(("clean", f"after {attack.name}")):
        seen = f"flagged, recovered as {recovered[i]}"
        seen = seen if verdict.is_adversarial[i] else "not flagged"
        heads.append(f"{when}: M answers {answers[i]}; {seen}")
    limits = analyzer.thresholds
    picture = _draw_scheme(
        images, (c, w, m), (limits.lower, limits.upper), heads, label
    )
    return Result(
        figure="figure2",
        dataset=test.name,
        title=f"Figure 2 on {test.name}: what the attacker and the analyzer see",
        pictures={"figure2": picture},
        numbers={
            "label": few.class_names[label],
            "answers": answers,
            "flagged": verdict.is_adversarial,
            "recovered": recovered[1],
            "c": c,
            "w": w,
            "m": m,
            "fired": verdict.fired,
        },
        words={"attack": attack.name, "fpr": f"{100 * limits.fpr:g}"},
    )


def figure_4(trapped: keras.Model, test: Dataset) -> Result:
    """Draws the distance to a codeword over the grey level, for both step sizes."""
    steps = sorted(set(decoder_of(trapped).steps))
    grey = np.unique(np.round(255 * test.images[0]))
    spans = {step: _span(step, grey) for step in steps}
    return Result(
        figure="figure4",
        dataset=test.name,
        title=f"Figure 4 on {test.name}: the distance of a pixel to a codeword",
        pictures={"figure4": _draw_distances(spans, grey)},
        numbers={
            "steps": steps,
            "grey_levels": len(grey),
            "shown": {f"{step:g}": span for step, span in spans.items()},
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
    blend = 255 * (part[:, None] * low.ravel() + (1 - part[:, None]) * high.ravel())
    held = ops.qim_embed(
        tf.constant(blend), tf.constant(message), tf.constant(steps)
    ).image.numpy()
    # Towards the codewords of the other bit, up or down as there is room.
    sign = np.where(held < 128, 1, -1)
    moved = 2 * _PERIODS * steps.min() * part
    grey = np.where(small, held, blend)[:, None, :]
    grey = grey + sign[:, None] * (small & half) * moved[:, None, None]
    grey = grey + sign[:, None] * (small & ~half) * moved[None, :, None]
    images = np.clip(grey / 255, 0, 1).astype(np.float32)
    return images.reshape(-1, *high.shape)


def _draw_surfaces(
    heights: FloatArray, is_high: npt.NDArray[np.bool_], names: tuple[str, str]
) -> Figure:
    figure = Figure(figsize=(9.6, 3.8), facecolor="white")
    part = np.linspace(0, 1, _GRID)
    across, along = np.meshgrid(part, part, indexing="ij")
    below = {"levels": [-0.5, 0.5, 1.5], "colors": HUES[:2], "alpha": 0.35}
    fine: dict[str, Any] = {"rcount": _GRID, "ccount": _GRID, "linewidth": 0}
    for i, title in enumerate(("(a) C", "(b) M")):
        axes: Any = figure.add_subplot(1, 2, i + 1, projection="3d")
        axes.set_position((0.03 + 0.5 * i, -0.05, 0.46, 1.12))
        axes.set_box_aspect((1.15, 1.0, 0.8), zoom=1.0)
        z = heights[..., i]
        floor = z.min() - 0.45 * np.ptp(z)
        answers = is_high[..., i].astype(float)
        axes.contourf(across, along, answers, zdir="z", offset=floor, **below)
        axes.plot_surface(across, along, z, cmap=TWO_WAYS, **fine)
        axes.view_init(elev=28, azim=-118)
        axes.set(zlim=(floor, z.max()), xticks=[], yticks=[])
        axes.set_xlabel(f"{names[0]} → {names[1]}", labelpad=-8)
        axes.set_ylabel("small-step pixels", labelpad=-8)
        axes.set_zlabel(f"soft label of {names[0]}", labelpad=2)
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
    places = np.arange(columns[0].shape[1])
    for i, part in enumerate(rows):
        part.suptitle(words[i], fontsize=10.5, x=0.01, ha="left")
        shown, *panels = part.subplots(1, 4, width_ratios=(0.8, 1, 1, 1))
        shown.imshow(np.squeeze(images[i]), cmap="gray", vmin=0, vmax=1)
        shown.set_axis_off()
        for axes, values, hue in zip(panels, columns, HUES, strict=False):
            style_axes(axes)
            filled = [hue if k == label else "none" for k in places]
            look = {"edgecolor": hue, "linewidth": 1.2, "width": 0.75}
            axes.bar(places, values[i], color=filled, **look)
            axes.axhline(0, color=MUTED, linewidth=0.8)
            ends = (min(values.min(), 0) * 1.12, values.max() * 1.12)
            axes.set(xticks=places, ylim=ends)
        for limit in limits:
            panels[1].axhline(limit, color=INK, linewidth=1, linestyle=":")
        for axes, head in zip((shown, *panels), heads, strict=True):
            if i == 0:
                axes.set_title(head, fontsize=9.5)
            else:
                axes.set_xlabel("Class", fontsize=9)
    return figure


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
    pattern, orders = np.array([1 - 2 * bit], np.int8), np.zeros((3, 1), np.int32)
    tables = ops.qim_tables(ops.Code((1,), pattern, *orders), [step], [1.0])
    centred = ops.qim_distance(grey.reshape(-1, 1), tables).numpy()[:, 0]
    return centred + step / 2


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
        axes.set(xlim=(low, high), ylim=(0, 1.05 * step))
        axes.set(xlabel="Pixel, grey levels", ylabel="Distance q, grey levels")
        axes.set_title(f"Step {step:g}", fontsize=10)
    shown = axes.get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper center", ncols=3, frameon=False)
    return figure
