"""Figure 7: whether loss (a) and local density (b) lead to the nearest attractor."""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from figures.drawing import Result, draw_cosines, overlap, quantiles
from figures.gradients import (
    Loss,
    Scores,
    both_answers,
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

# The points of one draw.
_BLOCK = 256
_EPS = 0.9

DensityGradient = Callable[..., tuple[tf.Tensor, tf.Tensor]]
"""From images, classes and ids to gradients `(batch, models, ...)`, which are 0 where
no point or every one was of the class, and `(batch, models)`, the share that was."""


def find_ways(
    decoder: QIMDecoder, images: tf.Tensor, *, step: float | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the ways `(batch, pixels)` to the nearest attractors, classes and steps."""
    steps = tf.convert_to_tensor(decoder.pixel_steps)
    bits = decoder.message_bits
    sizes = tf.constant([step] if step else sorted(set(decoder.steps)), tf.float32)
    masks = tf.cast(tf.equal(steps, sizes[:, None]), tf.float32)
    grey = tf.reshape(decoder.grey_levels(images), (-1, masks.shape[1]))

    def squares(message: tf.Tensor) -> tf.Tensor:
        way = _embed(grey, message, steps) - grey
        return tf.matmul(way * way, masks, transpose_b=True)

    # (messages, batch, sizes), by one message after the other to save memory.
    found = tf.map_fn(squares, bits, fn_output_signature=tf.float32)
    best_message = tf.argmin(found, axis=0)
    chosen = tf.argmin(tf.reduce_min(found, axis=0), axis=1)
    classes = tf.gather(best_message, chosen, axis=1, batch_dims=1)
    held = _embed(grey, tf.gather(bits, classes), steps)
    ways = (held - grey) * tf.gather(masks, chosen) / 255.0
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


# H(x, t) is the probability that x + δv is answered with t, for v in the ball. With l
# pixels, n points u on the sphere, and a leave-one-out baseline, its gradient is
# l / (δ (n - 1)) Σ_i (1_t(x + δu_i) - mean 1_t) u_i; `pages.md.j2` has its variance.
def density_gradient(
    scores: Scores, shape: Sequence[int], *, delta: float, samples: int, seed: int = 0
) -> DensityGradient:
    """Estimates, in a graph, how the local density of models changes, Section IV-B."""
    pixels, block = math.prod(shape), min(_BLOCK, samples)
    compiled = tf.function(scores, autograph=False).get_concrete_function(
        tf.TensorSpec((None, *shape), tf.float32)
    )
    # The scores are `(batch, models, num_classes)`.
    models = int(compiled.output_shapes[1])

    def look_around(
        image: tf.Tensor, goal: tf.Tensor, example: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # So that its points do not depend on the other images.
        own_seed = tf.random.fold_in(tf.constant([seed, 0]), example)

        def body(
            start: tf.Tensor, count: tf.Tensor, towards: tf.Tensor, all_: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            drawn = tf.random.fold_in(own_seed, start)
            normal = tf.random.stateless_normal((block, pixels), drawn)
            unit = normal / tf.norm(normal, axis=1, keepdims=True)
            unit = tf.reshape(unit, (block, *shape))[: samples - start]
            answers = tf.argmax(compiled(image + delta * unit), axis=-1)
            hits = tf.cast(tf.equal(answers, goal), tf.float32)
            return (
                start + block,
                count + tf.reduce_sum(hits, axis=0),
                towards + tf.tensordot(hits, unit, [[0], [0]]),
                all_ + tf.reduce_sum(unit, axis=0),
            )

        first = (0, tf.zeros(models), tf.zeros((models, *shape)), tf.zeros(shape))
        _, count, towards, all_ = tf.while_loop(
            lambda start, *_: start < samples, body, first
        )
        share = count / samples
        scale = pixels / delta / (samples - 1)
        return scale * (towards - tf.tensordot(share, all_, axes=0)), share

    return lambda *rows: tf.map_fn(
        lambda row: look_around(*row),
        rows,
        fn_output_signature=(
            tf.TensorSpec((models, *shape), tf.float32),
            tf.TensorSpec((models,), tf.float32),
        ),
    )


def density_cosines(
    decoder: QIMDecoder,
    scores: Scores,
    images: FloatArray,
    *,
    delta: float,
    samples: int,
    step: float | None = None,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Returns the cosines of density gradient and way, and hits: `(images, models)`."""
    shape = images.shape[1:]
    estimate = density_gradient(scores, shape, delta=delta, samples=samples, seed=seed)

    def compare(batch: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        ways, classes, _ = find_ways(decoder, batch, step=step)
        gradients, hits = estimate(batch, classes, ids)
        flat = tf.reshape(gradients, tf.concat([tf.shape(hits), [-1]], axis=0))
        return cosine(flat, ways[:, tf.newaxis]), hits

    # A few images at a time: their points are what takes the memory.
    cosines, hits = map_batches(compare, images, np.arange(len(images)), batch_size=32)
    return cosines, hits


def figure_7b(
    trapped: keras.Model, test: Dataset, *, delta: float, samples: int, seed: int = 0
) -> Result:
    """Compares the gradient of the local density with the way to an attractor."""
    decoder = decoder_of(trapped)
    large = max(decoder.steps)
    cosines, hits = density_cosines(
        decoder,
        both_answers(trapped),
        test.images,
        delta=delta,
        samples=samples,
        step=large,
        seed=seed,
    )
    by_model = dict(zip(("C", "M"), cosines.T, strict=True))
    facts = {
        model: {
            "in_basin": np.mean(of >= 1 - _EPS),
            "cosine": quantiles(of),
            "without": np.isnan(of).mean(),
            "hits": quantiles(share),
        }
        for (model, of), share in zip(by_model.items(), hits.T, strict=True)
    }
    label = "Cosine of x_w - x and grad H(x, t)"
    size = test.images[0].size
    return Result(
        figure="figure7b",
        dataset=test.name,
        title=f"Figure 7 (b) on {test.name}: does the density rise to an attractor?",
        pictures={"figure7b": draw_cosines(by_model, label, limit=1 - _EPS)},
        numbers={
            "images": len(test),
            "delta": delta,
            "samples": samples,
            "step": large,
            **facts,
        },
        words={
            "eps": _EPS,
            "levels": f"{255 * delta / size**0.5:.0f}",
            "by_chance": f"{size**-0.5:.3f}",
        },
    )
