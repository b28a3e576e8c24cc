"""Figure 6 of the luring paper: which pixels P's mapping looks at."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_traps._checks import FloatArray, IntArray
from keras_traps.evaluation.figures.study import (
    Study,
    picture,
    quantiles,
    text_table,
)
from keras_traps.evaluation.luring.names import NAMES
from keras_traps.evaluation.report.canvas import Scheme, to_png
from keras_traps.evaluation.report.formatting import measure, percent
from keras_traps.luring.directions import slopes

_BACKGROUND = 0.1
"""Pixels up to this value are background, where there is one."""

_DRAWS = 64
_SHOWN = 4


def lure_of(augmented: keras.Model) -> keras.Model:
    """Returns P of an M∘P that has it as its layer `lure`.

    Args:
        augmented: M∘P.

    Returns:
        A model from images to images that shares P's weights.
    """
    images = keras.Input(augmented.input_shape[1:], name="image")
    mapped = augmented.get_layer("lure")(images, training=False)
    return keras.Model(images, mapped, name="lure")


def sensitivity(
    lure: keras.Model, images: FloatArray, *, seed: int, draws: int = _DRAWS
) -> FloatArray:
    """Estimates how much P's image depends on each pixel of its input.

    The root of the sum over all values j of (∂P_j / ∂x_d)², and over the channels of a
    pixel d. The sum is the mean of (Jᵀv)_d² over vectors v of random signs, of which
    `draws` are taken in place of all rows of the Jacobian J.

    Args:
        lure: P.
        images: `(images, height, width, channels)`, float32, in [0, 1].
        seed: Of the signs.
        draws: How many vectors.

    Returns:
        `(images, height, width)`, float32, not below 0.
    """
    shape = tf.TensorSpec((None, *lure.input_shape[1:]), tf.float32)

    @tf.function(input_signature=[shape, shape], autograph=False)
    def pulled_back(x: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            mapped = lure(x, training=False)
        return tape.gradient(mapped, x, output_gradients=signs)

    generator = np.random.default_rng(seed)
    total = np.zeros(images.shape, np.float32)
    either = np.array([-1, 1], np.float32)
    for _ in range(draws):
        signs = generator.choice(either, images.shape)
        total += pulled_back(tf.constant(images), tf.constant(signs)).numpy() ** 2
    return np.sqrt(total.sum(axis=3) / draws)


def attention(target: keras.Model, images: FloatArray, labels: IntArray) -> FloatArray:
    """Measures how much M's answer depends on each pixel: its logit of the true class.

    Args:
        target: M, which returns logits.
        images: `(images, height, width, channels)`, float32, in [0, 1].
        labels: `(images,)`.

    Returns:
        The length of the derivative, as `slopes` has it, over the channels, `(images,
        height, width)`.
    """
    slope = slopes(target, "logits")
    found = np.zeros(images.shape, np.float32)
    for label in np.unique(labels):
        found[labels == label] = slope(images[labels == label], int(label))
    return np.linalg.norm(found, axis=3)


def figure_6(
    dataset: str,
    target: keras.Model,
    variants: Mapping[str, keras.Model],
    images: FloatArray,
    labels: IntArray,
    *,
    seed: int = 0,
) -> Study:
    """Draws which pixels M and the P of each variant depend on.

    Args:
        dataset: The data set's name.
        target: M, which returns logits.
        variants: M∘P by variant.
        images: `(images, height, width, channels)`, float32, in [0, 1].
        labels: `(images,)`.
        seed: Of the random signs.

    Returns:
        The figure.
    """
    maps = {"target": attention(target, images, labels)}
    for variant, augmented in variants.items():
        maps[variant] = sensitivity(lure_of(augmented), images, seed=seed)
    background = (images <= _BACKGROUND).all(axis=3)
    numbers: dict[str, dict[str, Any]] = {
        name: {
            "background_share": quantiles(_shares(found, background)),
            "correlation_with_target": None
            if name == "target"
            else quantiles(_correlations(found, maps["target"])),
        }
        for name, found in maps.items()
    }
    chosen = _one_per_class(labels)
    name = f"luring_figure6_{dataset}"
    return Study(
        name=name,
        title=f"Figure 6 on {dataset}: where P looks",
        subtitle=f"{len(images)} test images that all models are right on",
        blocks=(
            picture(
                name,
                "Test images, and maps of the pixels that M and each P depend on",
                "First column: the image. Second: how much M's logit of the true "
                "class, less the mean of all, depends on each pixel. Others: how much "
                "P's image does, "
                "‖∂P / ∂x_d‖. Each map is scaled to its own maximum.",
                functools.partial(_draw, images[chosen], _of(maps, chosen)),
            ),
            text_table(
                "Median over images. Background: pixels of at most "
                f"{_BACKGROUND:g}, {percent(float(background.mean()))} % of all; the "
                "share of the squared dependence that lies there, in per cent. "
                "Correlation: with M's map, over pixels",
                ("Map", "on the background", "correlation with M"),
                [
                    (
                        "M's logit" if key == "target" else f"P of {NAMES[key]}",
                        percent(row["background_share"]["median"]),
                        _correlation(row["correlation_with_target"]),
                    )
                    for key, row in numbers.items()
                ],
            ),
        ),
        numbers={
            "dataset": dataset,
            "images": len(images),
            "draws": _DRAWS,
            "background_pixels": float(background.mean()),
            "maps": numbers,
        },
    )


def _shares(maps: FloatArray, where: Any) -> FloatArray:
    squares = maps.astype(np.float64) ** 2
    with np.errstate(invalid="ignore"):
        return (squares * where).sum(axis=(1, 2)) / squares.sum(axis=(1, 2))


def _correlations(first: FloatArray, second: FloatArray) -> FloatArray:
    flat = [
        found.reshape(len(found), -1).astype(np.float64) for found in (first, second)
    ]
    a, b = (x - x.mean(axis=1, keepdims=True) for x in flat)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


def _correlation(found: Mapping[str, float | None] | None) -> str:
    return "" if found is None else measure(found["median"], 2)


def _one_per_class(labels: IntArray) -> IntArray:
    """The first image of each of the first few classes that there are."""
    _, first = np.unique(labels, return_index=True)
    return np.sort(first)[:_SHOWN]


def _of(maps: Mapping[str, FloatArray], chosen: IntArray) -> dict[str, FloatArray]:
    return {name: found[chosen] for name, found in maps.items()}


def _draw(images: FloatArray, maps: Mapping[str, FloatArray], scheme: Scheme) -> bytes:
    columns = 1 + len(maps)
    size = (1.35 * columns, 1.35 * len(images) + 0.35)
    figure = Figure(figsize=size, layout="constrained", facecolor=scheme.ground)
    panels = figure.subplots(len(images), columns, squeeze=False)
    for row, image in zip(panels, images, strict=True):
        row[0].imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
    for place, found in enumerate(maps.values(), 1):
        for row, one in zip(panels, found, strict=True):
            row[place].imshow(one, cmap="magma", vmin=0)
    for axes in panels.ravel():
        axes.set_axis_off()
    heads = ["image", *("M" if n == "target" else f"P, {NAMES[n]}" for n in maps)]
    for axes, head in zip(panels[0], heads, strict=True):
        axes.set_title(head, color=scheme.ink, fontsize=9.5)
    return to_png(figure)
