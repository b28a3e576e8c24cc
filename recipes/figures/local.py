"""Figure 7 (b): whether the local density rises towards the nearest attractor."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_traps.attractors import (
    AttractorSearch,
    DensityCosines,
    basin_share,
    both_answers,
    decoder_of,
    density_cosines,
)
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.curves import Values, draw_panel
from keras_traps.evaluation.figures.study import (
    Goal,
    Study,
    picture,
    quantiles,
    text_table,
)
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme, to_png

_EPS = 0.9
# The other radii and the small step are measured on the first images only.
_FEW = 100
_MODELS = ("C", "M")


def figure_7b(
    defence: Defence,
    test: Dataset,
    *,
    deltas: Sequence[float],
    samples: int,
    seed: int = 0,
) -> Study:
    """Compares the gradient of the local density with the way to an attractor.

    Args:
        defence: The classifier with its traps.
        test: Clean images.
        deltas: Radii, each above 0, in L2 for pixels in [0, 1]. The first is drawn, and
            all are compared on few images.
        samples: How many points for each image, at least 2.
        seed: Seed of the points. Defaults to `0`.

    Returns:
        Figure 7 (b) of the attractor paper.

    Raises:
        ValueError: If there is no radius, or one is not above 0.
    """
    if not deltas:
        raise ValueError(
            "Invalid value for argument `deltas`. Expected at least one. Received: ()"
        )
    delta, large = deltas[0], max(decoder_of(defence.trapped).steps)

    def measure(images: Dataset, radius: float, step: float) -> DensityCosines:
        return density_cosines(
            defence.trapped,
            both_answers(defence.trapped),
            images.images,
            delta=radius,
            samples=samples,
            search=AttractorSearch(scale=step),
            seed=seed,
        )

    started = time.perf_counter()
    main = measure(test, delta, large)
    seconds = time.perf_counter() - started
    few = test.take(min(_FEW, len(test)))
    others = [
        {"delta": radius, "step": step, **_facts(measure(few, radius, step))}
        for radius in deltas
        for step in sorted(set(decoder_of(defence.trapped).steps), reverse=True)
    ]
    facts = _facts(main)
    share = facts["M"]["in_basin"]
    per_pixel = 255 * delta / np.sqrt(test.images[0].size)

    def draw(scheme: Scheme) -> bytes:
        return _draw(main, scheme)

    name = f"figure7b_{test.name}"
    return Study(
        name=name,
        title=f"Figure 7 (b) on {test.name}: does the density rise to an attractor?",
        subtitle=f"{len(test):,} clean test images, {samples:,} points around each, "
        f"{seconds:.0f} s",
        blocks=(
            picture(
                name,
                "Densities of the cosine similarity for C and for M",
                "Cosine similarity of the way to the nearest attractor on the pixels "
                f"of step {large:g}, x_w - x, with the gradient of the local density "
                f"H(x, t) of radius {delta:g}, a root mean square of {per_pixel:.0f} "
                "grey levels per pixel. Images of which no point is answered with t, "
                "the class of x_w, have no gradient and are left out: "
                f"{facts['C']['without']:.0%} for C, {facts['M']['without']:.0%} for "
                f"M. The dotted line is at 1 - ε for ε = {_EPS:g}.",
                draw,
            ),
            text_table(
                f"By radius and step, on the first {len(few)} images; images without "
                f"a hit count as outside. In basin: cosine of at least {1 - _EPS:.1f}",
                [
                    "Radius",
                    "Message on",
                    *(
                        f"{model}: {head}"
                        for model in reversed(_MODELS)
                        for head in ("in basin, %", "median cosine", "without a hit, %")
                    ),
                    "Share of t in M, median, %",
                ],
                [_row(other) for other in others],
                words=2,
            ),
            Paragraph(
                "The gradient is estimated from points on the sphere of that radius "
                "by the score-function estimator with a leave-one-out baseline "
                "(Flaxman, Kalai and McMahan 2005), which has no bias. Its variance, "
                "added up over the l pixels, is l² p (1 - p) / (δ² n) less |grad H|² "
                "/ n, for a share p of hits among n points. So the cosines are those "
                "of noisy estimates, and would be higher with more points. A random "
                "direction's cosine has a standard deviation of 1/√l = "
                f"{test.images[0].size ** -0.5:.3f}. Pixels are free to leave the "
                "range, and nothing is taken off the gradient: with that, even noise "
                "would agree with the way on black pixels, where both could only rise "
                "(on MNIST to a cosine of about 0.2)."
            ),
            Paragraph(
                "The paper does not give its radius. It has to be so large that some "
                "points are answered with t at all. Noise of that size passes many "
                "periods of the small step, whose pull averages out; so the "
                "attractors of the large step are the ones to look at. A radius of 5 "
                "for MNIST was chosen among 0.3, 1, 3, 5, 8 and 12 on 60 of its test "
                "images; other data sets have about the same noise per pixel."
            ),
        ),
        numbers={
            "images": len(test),
            "seconds": round(seconds, 1),
            "delta": delta,
            "samples": samples,
            "step": large,
            **facts,
            "others": others,
        },
        goals=(
            Goal(
                f"Images in a basin at ε = {_EPS:g}",
                "more than 50 %",
                f"{share:.1%}; paper: more than 50 %",
                share > 0.5,
            ),
        ),
    )


def _facts(found: DensityCosines) -> dict[str, Any]:
    return {
        model: {
            "in_basin": basin_share(found.cosines[:, i], _EPS),
            "cosine": quantiles(found.cosines[:, i]),
            "without": float(np.isnan(found.cosines[:, i]).mean()),
            "hits": quantiles(found.hits[:, i]),
        }
        for i, model in enumerate(_MODELS)
    }


def _row(other: Mapping[str, Any]) -> list[str]:
    cells = [f"{other['delta']:g}", f"step {other['step']:g}"]
    for model in reversed(_MODELS):
        facts = other[model]
        median = facts["cosine"]["median"]
        cells += [
            f"{100 * facts['in_basin']:.0f}",
            "n/a" if median is None else f"{median:.2f}",
            f"{100 * facts['without']:.0f}",
        ]
    return [*cells, f"{100 * other['M']['hits']['median']:.2f}"]


def _draw(found: DensityCosines, scheme: Scheme) -> bytes:
    figure = Figure(figsize=(6.4, 3.4), layout="constrained", facecolor=scheme.ground)
    axes = figure.subplots()
    samples: dict[str, Values] = {
        model: found.cosines[:, i]
        for i, model in enumerate(_MODELS)
        if np.isfinite(found.cosines[:, i]).any()
    }
    hues = dict(zip(_MODELS, scheme.hues, strict=False))
    draw_panel(axes, samples, scheme, "Cosine of x_w - x and grad H(x, t)", hues=hues)
    axes.axvline(1 - _EPS, color=scheme.muted, linestyle=":", linewidth=1)
    return to_png(figure)
