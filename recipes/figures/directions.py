"""Figure 7 (a): whether the soft-label loss falls towards the nearest attractor."""

import functools
import time

import keras
import numpy as np
import tensorflow as tf

from figures.attractor_search import (
    basin_share,
    is_attractor,
    loss_cosines,
    nearest_attractors,
)
from figures.drawing import MUTED, Result, blank, draw_densities, overlap, quantiles
from figures.gradients import Loss, scores_of, soft_label_loss
from keras_traps._checks import FloatArray
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder
from keras_traps.models.outputs import Output

# The definition of Section IV-B is checked around the first images' attractors only.
_FEW = 8
_POINTS = 64


def figure_7a(
    classifier: keras.Model, output: Output, trapped: keras.Model, test: Dataset
) -> Result:
    """Compares -grad J with the way to the nearest attractor, for C and for M.

    Args:
        classifier: C.
        output: What it returns.
        trapped: M.
        test: Clean images.

    Returns:
        Figure 7 (a) of the attractor paper.
    """
    started = time.perf_counter()
    decoder = decoder_of(trapped)
    losses = {
        "C": soft_label_loss(scores_of(classifier, output)),
        "M": soft_label_loss(scores_of(trapped, "scores")),
    }
    found = loss_cosines(decoder, losses, test.images)
    seconds = time.perf_counter() - started
    shared = overlap(*found.feasible.values())
    picture = blank(6.4, 3.4)
    axes = picture.subplots()
    draw_densities(axes, found.feasible, "Cosine of x_w - x and -grad J(x, t)")
    axes.axvline(0.8, color=MUTED, linestyle=":", linewidth=1)
    axes.set_xlim(-0.4, 1.02)
    median = float(np.nanmedian(found.feasible["M"]))
    name = f"figure7a_{test.name}"
    return Result(
        name=name,
        title=f"Figure 7 (a) on {test.name}: does the loss fall towards an attractor?",
        pictures={name: picture},
        text=(
            "Cosine similarity of the way to the nearest attractor, x_w - x, with "
            f"-grad J(x, t), for the classifier C and the trapped model M, on "
            f"{len(test):,} clean test images; t is the class of x_w, the nearest "
            "attractor of all messages and steps. What would leave the pixel range is "
            f"taken off the gradient. The median for M is {median:.2f}, in the paper "
            f"more than 0.8 (dotted). The two densities share {shared:.1%}."
        ),
        numbers={
            "images": len(test),
            "seconds": round(seconds, 1),
            "cosine": {key: quantiles(of) for key, of in found.feasible.items()},
            "cosine_with_infeasible": {
                key: quantiles(of) for key, of in found.cosines.items()
            },
            "overlap": shared,
            "steps_of_the_nearest": sorted({float(step) for step in found.steps}),
            "median_distance": float(np.median(found.distances)),
            "in_basin": {
                f"{eps:g}": basin_share(found.feasible["M"], eps) for eps in (0.2, 0.5)
            },
            "around_whole_attractors": around_attractors(
                decoder, losses["M"], test.images[:_FEW]
            ),
        },
    )


def around_attractors(
    decoder: QIMDecoder, loss: Loss, images: FloatArray
) -> dict[str, dict[str, float]]:
    """Checks the definition of Section IV-B around images that hold a whole message.

    The points lie within a root mean square of 1 grey level.

    Args:
        decoder: A built decoder.
        loss: J of M, from images and classes to `(batch,)`.
        images: `(images, ...)`, float32, in [0, 1]: whose attractors to look at.

    Returns:
        Of minus the distance to the message and of -J: the median cosine, and the
        shares of the images that are 0.5- and 0.9-attractors.
    """
    found = nearest_attractors(decoder, images, scale="whole", ends="inside")

    def minus_distance(points: tf.Tensor, goal: int) -> tf.Tensor:
        return -decoder.distances(points)[:, goal]

    def minus_loss(points: tf.Tensor, goal: int) -> tf.Tensor:
        return -loss(points, tf.fill([tf.shape(points)[0]], goal))

    radius = float(np.sqrt(images[0].size)) / decoder.pixel_scale
    numbers = {}
    for name, rises in (
        ("minus the distance to the message", minus_distance),
        ("-J of M", minus_loss),
    ):
        cosines = np.stack(
            [
                is_attractor(
                    x0,
                    functools.partial(rises, goal=int(goal)),
                    1.0,
                    radius,
                    samples=_POINTS,
                ).cosines
                for x0, goal in zip(found.images, found.classes, strict=True)
            ]
        )
        smallest = np.nan_to_num(cosines, nan=-1.0).min(axis=1)
        numbers[name] = {
            "median": float(np.nanmedian(cosines)),
            "eps_0.5": float(np.mean(smallest >= 0.5)),
            "eps_0.9": float(np.mean(smallest >= 0.1)),
        }
    return numbers
