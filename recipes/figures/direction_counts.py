"""How many input directions move the logits of M and of M∘P opposite ways."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_traps._checks import FloatArray
from keras_traps.evaluation.figures.study import (
    Study,
    picture,
    quantiles,
    text_table,
)
from keras_traps.evaluation.luring.drawing import draw_box, hue
from keras_traps.evaluation.luring.names import NAMES
from keras_traps.evaluation.report.blocks import Block, Paragraph
from keras_traps.evaluation.report.canvas import Scheme, style_axes, to_png
from keras_traps.evaluation.report.formatting import percent
from keras_traps.luring.directions import opposite_directions
from keras_traps.rates import Rate

_PAPER = (
    "The paper reports that the number of opposite directions is lower for luring than "
    "for all others on more than 74 % of the images of SVHN and on 52 % of CIFAR10, on "
    "81 % and 85 % without Stack, and takes this to speak for more directions that "
    "differ. It does not say how the classes are put together, and a lower number does "
    "not speak for that: both ways are given here, of the sum over the classes."
)


def direction_counts(
    dataset: str,
    target: keras.Model,
    variants: Mapping[str, keras.Model],
    images: FloatArray,
) -> Study:
    """Counts, for each image, the directions along which logits go opposite ways.

    Args:
        dataset: The data set's name.
        target: M, which returns logits.
        variants: M∘P by variant, at least one.
        images: `(images, height, width, channels)`, float32, in [0, 1], that all models
            are right on.

    Returns:
        The counts, as shares of all directions, and how often luring has the most and
        the fewest.
    """
    size = float(np.prod(images.shape[1:]))
    shares = {
        variant: opposite_directions(target, augmented, images, output="logits").mean(
            axis=1
        )
        / size
        for variant, augmented in variants.items()
    }
    rows = {variant: quantiles(share) for variant, share in shares.items()}
    ranks = _ranks(shares)
    name = f"luring_directions_{dataset}"
    blocks: list[Block] = [
        picture(
            name,
            "Boxes of the share of opposite directions, by source model",
            "For each image and class, the share of input values along which the logit "
            "of M, less the mean of all, rises and that of M∘P falls, or the reverse; "
            "the mean over classes. "
            "Boxes hold the middle half of the images, whiskers reach from 5 % to "
            "95 %; half would be chance.",
            functools.partial(_draw, shares),
        ),
        text_table(
            "Opposite directions in per cent of all, over images",
            ("Source", "5 %", "median", "95 %"),
            [
                (
                    NAMES[key],
                    *(percent(row[part]) for part in ("low", "median", "high")),
                )
                for key, row in rows.items()
            ],
        ),
    ]
    if ranks:
        blocks += [
            text_table(
                "On how many of the images luring has more or fewer of them than all "
                "others, in per cent",
                ("Beside", "more", "fewer"),
                [
                    (
                        listed,
                        percent(found["more"].value),
                        percent(found["fewer"].value),
                    )
                    for listed, found in ranks.items()
                ],
            ),
            Paragraph(_PAPER),
        ]
    return Study(
        name=name,
        title=f"Opposite directions on {dataset}",
        subtitle=f"{len(images)} test images that all models are right on",
        blocks=tuple(blocks),
        numbers={
            "dataset": dataset,
            "images": len(images),
            "directions": int(size),
            "shares": rows,
            "luring": {
                listed: {way: rate.count for way, rate in found.items()}
                for listed, found in ranks.items()
            },
        },
    )


def _ranks(shares: Mapping[str, Any]) -> dict[str, dict[str, Rate]]:
    """How often luring is above, and below, all others; and all but the stack."""
    others = [name for name in shares if name != "luring"]
    if "luring" not in shares or not others:
        return {}
    sets = [others, [name for name in others if name != "stack"]]
    found = {}
    for names in sets:
        if names:
            found[_listed(names)] = {
                "more": _rate(
                    np.all([shares["luring"] > shares[name] for name in names], axis=0)
                ),
                "fewer": _rate(
                    np.all([shares["luring"] < shares[name] for name in names], axis=0)
                ),
            }
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(NAMES[name] for name in names)


def _rate(chosen: Any) -> Rate:
    return Rate(int(chosen.sum()), len(chosen))


def _draw(shares: Mapping[str, Any], scheme: Scheme) -> bytes:
    figure = Figure(figsize=(4.8, 3.2), layout="constrained", facecolor=scheme.ground)
    axes = figure.subplots()
    style_axes(axes, scheme)
    for place, (variant, share) in enumerate(shares.items()):
        draw_box(axes, place, 100 * share, hue(variant, scheme), scheme)
    axes.axhline(50, color=scheme.muted, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(shares)), [NAMES[name] for name in shares])
    axes.tick_params(axis="x", labelcolor=scheme.ink)
    axes.set_ylabel("Opposite directions, %")
    return to_png(figure)
