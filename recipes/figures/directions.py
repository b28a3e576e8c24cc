"""Figure 7 (a): whether the soft-label loss falls towards the nearest attractor."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from figures.drawing import Result, draw_cosines, overlap, quantiles
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


def find_ways(
    decoder: QIMDecoder, images: tf.Tensor, *, step: float | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the ways `(batch, pixels)` to the nearest attractors, classes and steps."""
    steps = tf.convert_to_tensor(decoder.pixel_steps)
    bits = tf.convert_to_tensor(decoder.message_bits)
    sizes = tf.constant([step] if step else sorted(set(decoder.steps)), tf.float32)
    masks = tf.cast(tf.equal(steps, sizes[:, None]), tf.float32)
    grey = tf.reshape(images, (-1, masks.shape[1])) * decoder.pixel_scale

    def squares(message: tf.Tensor) -> tf.Tensor:
        way = _embed(grey, message, steps) - grey
        return tf.matmul(way * way, masks, transpose_b=True)

    # (messages, batch, sizes), by one message after the other to save memory.
    found = tf.map_fn(squares, bits, fn_output_signature=tf.float32)
    best_message = tf.argmin(found, axis=0)
    chosen = tf.argmin(tf.reduce_min(found, axis=0), axis=1)
    classes = tf.gather(best_message, chosen, axis=1, batch_dims=1)
    held = _embed(grey, tf.gather(bits, classes), steps)
    ways = (held - grey) * tf.gather(masks, chosen) / decoder.pixel_scale
    return ways, classes, tf.gather(sizes, chosen)


def loss_cosines(
    decoder: QIMDecoder, losses: Sequence[Loss], images: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Returns the cosines of all and of feasible descent and way; steps, distances."""

    def compare(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        ways, towards, steps = find_ways(decoder, batch)
        pixels = tf.reshape(batch, tf.shape(ways))
        plain, feasible = [], []
        for loss in losses:
            descent = tf.reshape(-gradient(loss, batch, towards), tf.shape(ways))
            leaves = ((pixels <= 0.0) & (descent < 0.0)) | (
                (pixels >= 1.0) & (descent > 0.0)
            )
            plain.append(cosine(descent, ways))
            feasible.append(cosine(tf.where(leaves, 0.0, descent), ways))
        cosines = (tf.stack(plain, axis=1), tf.stack(feasible, axis=1))
        return *cosines, steps, tf.norm(ways, axis=1)

    plain, feasible, steps, distances = map_batches(compare, images)
    return plain, feasible, steps, distances


def figure_7a(defence: Defence, test: Dataset) -> Result:
    """Compares -grad J with the way to the nearest attractor, for C and for M."""
    losses = [
        soft_label_loss(scores_of(defence.classifier, defence.output)),
        soft_label_loss(scores_of(defence.trapped, "scores")),
    ]
    *cosines, steps, distances = loss_cosines(
        decoder_of(defence.trapped), losses, test.images
    )
    plain, feasible = (dict(zip(("C", "M"), of.T, strict=True)) for of in cosines)
    shared = overlap(*feasible.values())
    picture = draw_cosines(feasible, "Cosine of x_w - x and -grad J(x, t)", limit=0.8)
    picture.axes[0].set_xlim(-0.4, 1.02)
    return Result(
        figure="figure7a",
        dataset=test.name,
        title=f"Figure 7 (a) on {test.name}: does the loss fall towards an attractor?",
        pictures={"figure7a": picture},
        numbers={
            "images": len(test),
            "cosine": {key: quantiles(of) for key, of in feasible.items()},
            "cosine_with_infeasible": {key: quantiles(of) for key, of in plain.items()},
            "overlap": shared,
            "steps_of_the_nearest": np.unique(steps),
            "median_distance": np.median(distances),
            # Of an eps-attractor, Section IV-B; without a direction it is in none.
            "in_basin": {
                f"{eps:g}": np.mean(feasible["M"] >= 1 - eps) for eps in (0.2, 0.5)
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
