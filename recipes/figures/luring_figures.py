"""Figures 4 to 6 of the luring paper, and the directions that logits go."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.drawing import HUES, MUTED, Result, blank, draw_box, quantiles, style_axes
from figures.gradients import Loss, gradient, map_batches
from keras_traps._checks import FloatArray, IntArray
from keras_traps.evaluation.metrics import luring_rates
from keras_traps.evaluation.paper import NAMES
from keras_traps.models.logits import logits_model

ATTACKS = ("FGSM", "PGD", "MIM", "MIML2")
"""The attacks of Figure 4."""

VARIANT_HUES = dict(zip(("luring", "ce", "auto", "stack"), HUES, strict=True))
"""The colour of a variant, the same in every figure."""

# Pixels up to this value are background, where there is one.
_BACKGROUND = 0.1
_DRAWS = 64
_SHOWN = 4


def figure_4(dataset: str, frame: pd.DataFrame) -> Result:
    """Draws detection rate and adequation rate over the radius."""
    shown, variants = _shown(frame, ATTACKS)
    rows, left_out = [], []
    for (attack, eps), cell in shown.groupby(["attack", "eps"], observed=True):
        # What fools all source models is another thing where there are fewer.
        if cell.variant.nunique() < len(variants):
            left_out.append(f"{attack} {eps:g}")
            continue
        counts = cell[cell.augmented != cell.label].groupby("id").variant.nunique()
        kept = cell[cell.id.isin(counts.index[counts == len(variants)])]
        for variant in variants:
            of = kept[kept.variant == variant]
            found = luring_rates(of)
            rows.append(
                {
                    "attack": attack,
                    "eps": eps,
                    "variant": variant,
                    "images": len(of),
                    "attacked": (cell.variant == variant).sum(),
                    "dr": found.dr.value,
                    "dr_interval": found.dr.interval,
                    "adq": found.adq.value,
                    "adq_interval": found.adq.interval,
                }
            )
    if not rows:
        raise ValueError(
            "No attack of Figure 4 was run on all of "
            f"{', '.join(NAMES[variant] for variant in variants)} at one radius."
        )
    return Result(
        figure="luring_figure4",
        dataset=dataset,
        title=f"Figure 4 on {dataset}: detection rate and adequation rate",
        pictures={"luring_figure4": _draw_rates(pd.DataFrame(rows), variants)},
        numbers={"dataset": dataset, "rows": rows},
        words={"left_out": ", ".join(left_out) or "none"},
    )


def figure_5(dataset: str, frame: pd.DataFrame) -> Result:
    """Draws how many values PGD changes, by source model; the frame is Figure 4's."""
    shown, variants = _shown(frame, ("PGD",))
    by_cell = dict(iter(shown.groupby(["eps", "variant"])))
    rows = []
    radii = sorted(shown.eps.unique())
    figure = blank(1.2 + 2.6 * len(radii), 3.2)
    panels = figure.subplots(1, len(radii), sharey=True, squeeze=False)[0]
    for axes, eps in zip(panels, radii, strict=True):
        style_axes(axes)
        for place, variant in enumerate(variants):
            if (eps, variant) not in by_cell:
                continue
            of = by_cell[eps, variant]
            l0 = of[of.augmented != of.label].l0.to_numpy(np.int64)
            mean = l0.mean() if len(l0) else None
            row = {"eps": eps, "variant": variant, "images": len(l0)}
            rows.append({**row, **quantiles(l0), "mean": mean})
            if len(l0):
                draw_box(axes, place, l0, VARIANT_HUES[variant])
        axes.set_xlim(-0.6, len(variants) - 0.4)
        axes.set_xticks(range(len(variants)), [NAMES[name] for name in variants])
        axes.set_title(f"ε = {eps:g}", fontsize=10)
    panels[0].set_ylabel("Changed values")
    return Result(
        figure="luring_figure5",
        dataset=dataset,
        title=f"Figure 5 on {dataset}: how many values PGD changes",
        pictures={"luring_figure5": figure},
        numbers={"dataset": dataset, "rows": rows},
    )


def _shown(frame: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The rows of attacks, which sort in the order of their names, and the variants."""
    shown = frame[(frame.threat == "luring") & frame.attack.isin(names)]
    if not len(shown):
        raise ValueError(
            "There are no records to draw. Attack first, by "
            f"--attacks={','.join(ATTACKS)}."
        )
    there = set(shown.variant)
    ordered = shown.assign(attack=pd.Categorical(shown.attack, names))
    return ordered, [name for name in NAMES if name in there]


def _draw_rates(rows: pd.DataFrame, variants: Sequence[str]) -> Figure:
    """A panel per attack, solid and dashed lines per variant."""
    attacks = rows.attack.unique()
    figure = blank(1.6 + 2.6 * len(attacks), 3.4)
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    look = {"marker": "o", "markersize": 3.5, "linewidth": 1.5}
    for axes, attack in zip(panels, attacks, strict=True):
        style_axes(axes)
        of_attack = rows[rows.attack == attack]
        for variant in variants:
            of = of_attack[of_attack.variant == variant].astype(
                {"dr": float, "adq": float}
            )
            hue = VARIANT_HUES[variant]
            axes.plot(of.eps, of.dr, "-", color=hue, **look)
            axes.plot(of.eps, of.adq, "--", color=hue, **look)
        axes.set_xticks(sorted(of_attack.eps.unique()))
        axes.set_title(attack, fontsize=10)
        axes.set_xlabel("ε")
        axes.set_ylim(-0.03, 1.03)
    panels[0].set_ylabel("Rate")
    lines = [Line2D([], [], color=VARIANT_HUES[variant]) for variant in variants]
    lines += [Line2D([], [], color=MUTED, linestyle=dash) for dash in ("-", "--")]
    names = [*(NAMES[variant] for variant in variants), "DR", "Adq"]
    figure.legend(lines, names, loc="outside right center", frameon=False, fontsize=9)
    return figure


def lead_of(model: keras.Model) -> Loss:
    """Returns the logit of a class less the mean of all, as a function."""
    logits = logits_model(model, "logits")

    def lead(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        found = logits(images, training=False)
        own = tf.gather(found, classes, axis=1, batch_dims=1)
        # What is added to all logits changes no answer.
        return own - tf.reduce_mean(found, axis=1)

    return lead


def slopes(model: keras.Model, images: FloatArray, classes: IntArray) -> FloatArray:
    """The derivative of each image's logit of a class, as `lead_of` has it."""
    lead = lead_of(model)
    return map_batches(lambda *batch: gradient(lead, *batch), images, classes)


def opposite_directions(
    target: keras.Model, augmented: keras.Model, images: FloatArray
) -> IntArray:
    """Counts the input values along which a logit of M rises and of M∘P falls."""
    leads = [lead_of(model) for model in (target, augmented)]

    def count(batch: tf.Tensor) -> tf.Tensor:
        def of_class(number: tf.Tensor) -> tf.Tensor:
            classes = tf.fill(tf.shape(batch)[:1], number)
            # Signs, for the product of two small numbers may round to 0.
            first, second = (tf.sign(gradient(lead, batch, classes)) for lead in leads)
            opposite = tf.cast(first * second < 0, tf.int64)
            return tf.reduce_sum(opposite, axis=[1, 2, 3])

        numbers = tf.range(target.output_shape[1])
        return tf.transpose(tf.map_fn(of_class, numbers, fn_output_signature=tf.int64))

    return map_batches(count, images, batch_size=100)


def sensitivity(
    lure: keras.layers.Layer, images: FloatArray, *, seed: int
) -> FloatArray:
    """Estimates |∂P / ∂x_d| of each pixel d as (Jᵀv)_d² over random signs v."""

    @tf.function(autograph=False)
    def pulled_back(x: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            mapped = lure(x, training=False)
        return tape.gradient(mapped, x, output_gradients=signs)

    generator = np.random.default_rng(seed)
    total = np.zeros(images.shape, np.float32)
    either = np.array([-1, 1], np.float32)
    for _ in range(_DRAWS):
        signs = generator.choice(either, images.shape)
        total += pulled_back(tf.constant(images), tf.constant(signs)).numpy() ** 2
    return np.sqrt(total.sum(axis=3) / _DRAWS)


def figure_6(
    dataset: str,
    target: keras.Model,
    variants: Mapping[str, keras.Model],
    images: FloatArray,
    labels: IntArray,
    *,
    seed: int = 0,
) -> Result:
    """Draws which pixels M and P, the layer `lure` of each variant, depend on."""
    maps = {"target": np.linalg.norm(slopes(target, images, labels), axis=3)}
    for variant, augmented in variants.items():
        maps[variant] = sensitivity(augmented.get_layer("lure"), images, seed=seed)
    background = np.all(images <= _BACKGROUND, axis=3)
    numbers: dict[str, dict[str, Any]] = {}
    for name, found in maps.items():
        squares = found.astype(np.float64) ** 2
        # Of a map of zeros there is neither.
        with np.errstate(invalid="ignore"):
            shares = (squares * background).sum(axis=(1, 2)) / squares.sum(axis=(1, 2))
            correlations = [
                np.corrcoef(one.ravel(), other.ravel())[0, 1]
                for one, other in zip(found, maps["target"], strict=True)
            ]
        numbers[name] = {
            "background_share": quantiles(shares),
            "correlation_with_target": quantiles(correlations),
        }
    numbers["target"]["correlation_with_target"] = None
    chosen = np.sort(np.unique(labels, return_index=True)[1])[:_SHOWN]
    return Result(
        figure="luring_figure6",
        dataset=dataset,
        title=f"Figure 6 on {dataset}: where P looks",
        pictures={"luring_figure6": _draw_maps(images[chosen], maps, chosen)},
        numbers={
            "dataset": dataset,
            "images": len(images),
            "draws": _DRAWS,
            "background_pixels": background.mean(),
            "maps": numbers,
        },
        words={"background": _BACKGROUND},
    )


def direction_counts(
    dataset: str,
    target: keras.Model,
    variants: Mapping[str, keras.Model],
    images: FloatArray,
) -> Result:
    """Counts the directions along which logits go opposite ways, as shares of all."""
    size = images[0].size
    shares = pd.DataFrame(
        {
            variant: opposite_directions(target, augmented, images).mean(axis=1) / size
            for variant, augmented in variants.items()
        }
    )
    # How often luring is above, and below, all others; all but the stack.
    ranks = {}
    if "luring" in shares:
        others = shares.drop(columns="luring")
        for rest in (others, others.drop(columns="stack", errors="ignore")):
            if len(rest.columns):
                ranks[", ".join(NAMES[name] for name in rest)] = {
                    "more": (shares.luring > rest.max(axis=1)).sum(),
                    "fewer": (shares.luring < rest.min(axis=1)).sum(),
                }
    figure = blank(4.8, 3.2)
    axes = figure.subplots()
    style_axes(axes)
    for place, variant in enumerate(shares):
        draw_box(axes, place, 100 * shares[variant].to_numpy(), VARIANT_HUES[variant])
    axes.axhline(50, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(variants)), [NAMES[name] for name in variants])
    axes.set_ylabel("Opposite directions, %")
    return Result(
        figure="luring_directions",
        dataset=dataset,
        title=f"Opposite directions on {dataset}",
        pictures={"luring_directions": figure},
        numbers={
            "dataset": dataset,
            "images": len(images),
            "directions": size,
            "shares": {variant: quantiles(shares[variant]) for variant in shares},
            "luring": ranks,
        },
    )


def _draw_maps(
    images: FloatArray, maps: Mapping[str, FloatArray], chosen: IntArray
) -> Figure:
    columns = 1 + len(maps)
    figure = blank(1.35 * columns, 1.35 * len(images) + 0.35)
    panels = figure.subplots(len(images), columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for row, index, image in zip(panels, chosen, images, strict=True):
        row[0].imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
        for axes, found in zip(row[1:], maps.values(), strict=True):
            axes.imshow(found[index], cmap="magma", vmin=0)
    heads = ["image", *("M" if n == "target" else f"P, {NAMES[n]}" for n in maps)]
    for axes, head in zip(panels[0], heads, strict=True):
        axes.set_title(head, fontsize=9.5)
    return figure
