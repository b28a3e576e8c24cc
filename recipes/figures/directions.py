"""Figure 7 (a): whether the soft-label loss falls towards the nearest attractor."""

import time

import numpy as np
from matplotlib.figure import Figure

from keras_traps.attractors import (
    AttractorCosines,
    AttractorSearch,
    Calibration,
    basin_share,
)
from keras_traps.attractors.analysis import DEFAULT_SEARCH
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.curves import draw_panel, overlap
from keras_traps.evaluation.figures.direction_variants import (
    Subject,
    around_attractors,
    heavy_on_the_large_step,
    on_the_way,
    variants,
)
from keras_traps.evaluation.figures.study import Goal, Study, picture, quantiles
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme, to_png

# Variants and the way to the attractor are measured on the first images only.
_FEW = 1000
_VERY_FEW = 8


def figure_7a(
    defence: Defence, calibration: Calibration, train: Dataset, test: Dataset
) -> Study:
    """Compares -grad J with the way to the nearest attractor, for C and for M.

    Args:
        defence: The classifier with its traps.
        calibration: How its constants were chosen; for comparison others are chosen by
            the same rules, with more weight on the large step.
        train: Training images, for these.
        test: Clean images.

    Returns:
        Figure 7 (a) of the attractor paper.
    """
    started = time.perf_counter()
    ours = Subject("this project's", defence)
    main = ours.cosines(test.images, DEFAULT_SEARCH)
    seconds = time.perf_counter() - started
    heavy = heavy_on_the_large_step(defence, calibration, train)
    whole = AttractorSearch(scale="whole")
    other = heavy.cosines(test.images[:_FEW], whole)
    table, by_variant = variants([ours, heavy], test.images[:_FEW])
    shared = {
        name: overlap(*found.feasible.values())
        for name, found in ((ours.name, main), (heavy.name, other))
    }
    way_table, by_part = on_the_way(ours, test.images[:_FEW])
    near_table, nearby = around_attractors(ours, test.images[:_VERY_FEW])
    median = float(np.nanmedian(main.feasible["M"]))
    black = float(np.mean(test.images == 0))

    def draw(scheme: Scheme) -> bytes:
        return _draw(main, other, scheme)

    name = f"figure7a_{test.name}"
    return Study(
        name=name,
        title=f"Figure 7 (a) on {test.name}: does the loss fall towards an attractor?",
        subtitle=f"{len(test):,} clean test images, {seconds:.0f} s",
        blocks=(
            picture(
                name,
                "Densities of the cosine similarity for C and for M",
                "Cosine similarity of the way to the nearest attractor, x_w - x, with "
                "-grad J(x, t), for the classifier C and the trapped model M; t is the "
                "class of x_w. Left: this project's constants, the nearest attractor "
                "of all messages and steps, which holds its message on the pixels of "
                "the small step. Right: more weight on the large step, as in the "
                "paper, and the nearest image that holds a message on all pixels. The "
                "dotted line is at 0.8. What would leave the pixel range is taken off "
                "the gradient.",
                draw,
            ),
            table,
            Paragraph(
                "The two choices of constants pull at two scales. Here a pixel of the "
                "small step weighs more, so the gradient points to attractors of the "
                "small step; an attractor on all pixels moves those of the large step "
                "much further, and they hardly show in the gradient. With more weight "
                "on the large step it is the other way round. W's slope has one size "
                "per pixel while the way differs from pixel to pixel: evenly spread "
                "ways cap the cosine at 0.87, and pixels that are alike, such as black "
                "ones, lift it again. The small hump of M is the images whose nearest "
                "attractor holds the message of their own class: there, the other "
                "classes' messages have more of a say in the gradient."
            ),
            Paragraph(
                f"Of these images' pixels {black:.0%} are black. The codebook goes on "
                "outside the pixel range, and a black pixel whose nearest codeword "
                "lies below 0 is pulled down, and stays: cut at the pixel range, its "
                "correlation is highest at 0. To embed a whole message takes codewords "
                "inside the range, to which no slope leads from black. Without a range "
                "nothing has to be taken off the gradient."
            ),
            way_table,
            Paragraph(
                "Where the correlation is highest it is also flat: equation 3 "
                "saturates before the attractor is reached. An attack stops being "
                "pulled there, long after it can be detected. So at small distances "
                "from x_w, M's own loss does not make it an attractor, while the "
                "distance to its message, before equation 3, does."
            ),
            near_table,
        ),
        numbers={
            "images": len(test),
            "seconds": round(seconds, 1),
            "cosine": {key: quantiles(values) for key, values in main.feasible.items()},
            "cosine_with_infeasible": {
                key: quantiles(values) for key, values in main.cosines.items()
            },
            "overlap": shared,
            "steps_of_the_nearest": sorted({float(step) for step in main.steps}),
            "black_pixels": black,
            "median_distance": float(np.median(main.distances)),
            "in_basin": {
                f"{eps:g}": basin_share(main.feasible["M"], eps) for eps in (0.2, 0.5)
            },
            "on_the_way": by_part,
            "around_whole_attractors": nearby,
            "variants": by_variant,
        },
        goals=(
            Goal(
                "Median cosine for M",
                "at least 0.8",
                f"{median:.3f}; paper: more than 0.8",
                median >= 0.8,
            ),
            Goal(
                "Overlap of the densities of C and M",
                "less than 10 %",
                f"{shared[ours.name]:.2%}",
                shared[ours.name] < 0.1,
            ),
        ),
    )


def _draw(ours: AttractorCosines, heavy: AttractorCosines, scheme: Scheme) -> bytes:
    figure = Figure(figsize=(9.6, 3.4), layout="constrained", facecolor=scheme.ground)
    titles = ("This project's constants", "More weight on the large step")
    for axes, found, title in zip(
        figure.subplots(1, 2), (ours, heavy), titles, strict=True
    ):
        draw_panel(
            axes,
            found.feasible,
            scheme,
            "Cosine of x_w - x and -grad J(x, t)",
        )
        axes.axvline(0.8, color=scheme.muted, linestyle=":", linewidth=1)
        axes.set_xlim(-0.4, 1.02)
        axes.set_title(title, color=scheme.ink, fontsize=10)
    return to_png(figure)
