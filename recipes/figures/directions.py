"""Figure 7 (a): whether the soft-label loss falls towards the nearest attractor."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from figures.drawing import MUTED, Result, blank, draw_densities, overlap, quantiles
from figures.gradients import (
    Loss,
    cosine,
    gradient,
    map_batches,
    scores_of,
    soft_label_loss,
)
from keras_traps import ops
from keras_traps._checks import FloatArray
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from keras_traps.layers import QIMDecoder

Scale = float | Literal["nearest"]
"""Which pixels hold an attractor's message, while the others stay as they are: those of
a step size, or of any one step size, whichever is the nearest."""


class Ways(NamedTuple):
    """The ways to the nearest attractors, inside a graph."""

    ways: tf.Tensor
    classes: tf.Tensor
    steps: tf.Tensor


class AttractorCosines(NamedTuple):
    """How well the descent of losses agrees with the way to the nearest attractor."""

    plain: FloatArray
    feasible: FloatArray
    steps: FloatArray
    distances: FloatArray


def find_ways(
    decoder: QIMDecoder, images: tf.Tensor, *, scale: Scale = "nearest"
) -> Ways:
    """Finds the ways to the nearest attractors of all messages, inside a graph.

    A pixel whose nearest codeword lies outside the pixel range goes to that end of the
    range, where its correlation is highest within it. One message is looked at after
    the other, so that the memory does not grow with their number.

    Reference:
        Zhang, Chang, Lee, Section VI-C2.
    """
    there = sorted(set(decoder.steps))
    wanted = there if scale == "nearest" else [scale]
    if not set(wanted) <= set(there):
        raise ValueError(
            "Invalid value for argument `scale`. Expected a step size of the "
            f"decoder, one of {tuple(there)}. Received: scale={scale}"
        )
    steps = tf.convert_to_tensor(decoder.pixel_steps)
    bits = tf.convert_to_tensor(decoder.message_bits)
    sizes = tf.constant(wanted, tf.float32)
    masks = tf.cast(tf.equal(steps, sizes[:, None]), tf.float32)
    grey = tf.reshape(images, (-1, masks.shape[1])) * decoder.pixel_scale

    def squares(message: tf.Tensor) -> tf.Tensor:
        way = _embed(grey, message, steps) - grey
        return tf.matmul(way * way, masks, transpose_b=True)

    # (messages, batch, scales)
    found = tf.map_fn(squares, bits, fn_output_signature=tf.float32)
    best_message = tf.argmin(found, axis=0)
    chosen = tf.argmin(tf.reduce_min(found, axis=0), axis=1)
    classes = tf.gather(best_message, chosen, axis=1, batch_dims=1)
    held = _embed(grey, tf.gather(bits, classes), steps)
    ways = (held - grey) * tf.gather(masks, chosen) / decoder.pixel_scale
    return Ways(ways, classes, tf.gather(sizes, chosen))


def loss_cosines(
    decoder: QIMDecoder, losses: Sequence[Loss], images: FloatArray
) -> AttractorCosines:
    """Compares the descent of losses with the way to the nearest attractor."""

    def compare(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = find_ways(decoder, batch)
        pixels = tf.reshape(batch, tf.shape(found.ways))
        plain, feasible = [], []
        for loss in losses:
            descent = -gradient(loss, batch, found.classes)
            descent = tf.reshape(descent, tf.shape(found.ways))
            leaves = ((pixels <= 0.0) & (descent < 0.0)) | (
                (pixels >= 1.0) & (descent > 0.0)
            )
            plain.append(cosine(descent, found.ways))
            feasible.append(cosine(tf.where(leaves, 0.0, descent), found.ways))
        return (
            tf.stack(plain, axis=1),
            tf.stack(feasible, axis=1),
            found.steps,
            tf.norm(found.ways, axis=1),
        )

    return AttractorCosines(*map_batches(compare, images))


def basin_share(cosines: FloatArray, eps: float) -> float:
    """Returns the share of images that lie in the basin of an eps-attractor.

    Of each the gradient's cosine with the way to the nearest attractor is at least
    1 - eps, Section IV-B. NaN, where there is no direction, is in no basin.
    """
    return float((cosines >= 1.0 - eps).mean())


def figure_7a(defence: Defence, test: Dataset) -> Result:
    """Compares -grad J with the way to the nearest attractor, for C and for M."""
    losses = [
        soft_label_loss(scores_of(defence.classifier, defence.output)),
        soft_label_loss(scores_of(defence.trapped, "scores")),
    ]
    found = loss_cosines(decoder_of(defence.trapped), losses, test.images)
    plain, feasible = (
        dict(zip(("C", "M"), of.T, strict=True)) for of in (found.plain, found.feasible)
    )
    shared = overlap(*feasible.values())
    picture = blank(6.4, 3.4)
    axes = picture.subplots()
    draw_densities(axes, feasible, "Cosine of x_w - x and -grad J(x, t)")
    axes.axvline(0.8, color=MUTED, linestyle=":", linewidth=1)
    axes.set_xlim(-0.4, 1.02)
    name = f"figure7a_{test.name}"
    return Result(
        name=name,
        title=f"Figure 7 (a) on {test.name}: does the loss fall towards an attractor?",
        pictures={name: picture},
        text=(
            "Cosine similarity of the way to the nearest attractor, x_w - x, with "
            "-grad J(x, t), for the classifier C and the trapped model M, on clean "
            "images; t is the class of x_w, the nearest attractor of all messages and "
            "steps. What would leave the pixel range is taken off the gradient. The "
            "median for M is "
            f"{np.nanmedian(feasible['M']):.2f}, in the paper more than 0.8 "
            f"(dotted). The two densities share {shared:.1%}."
        ),
        numbers={
            "images": len(test),
            "cosine": {key: quantiles(of) for key, of in feasible.items()},
            "cosine_with_infeasible": {key: quantiles(of) for key, of in plain.items()},
            "overlap": shared,
            "steps_of_the_nearest": sorted({float(step) for step in found.steps}),
            "median_distance": float(np.median(found.distances)),
            "in_basin": {
                f"{eps:g}": basin_share(feasible["M"], eps) for eps in (0.2, 0.5)
            },
        },
    )


def _embed(grey: tf.Tensor, message: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    # The op keeps to [0, 255]. Moved up by a period and shrunk, every pixel lies
    # nearer to its codeword than to an end: the codebook is as good as endless.
    period = 2.0 * steps
    shrink = (255.0 + 2.0 * period) / 255.0
    moved = ops.qim_embed((grey + period) / shrink, message, steps / shrink).image
    return tf.clip_by_value(moved * shrink - period, 0.0, 255.0)
