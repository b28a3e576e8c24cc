"""Figure 7 (b): whether the local density rises towards the nearest attractor."""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from figures.directions import find_ways
from figures.drawing import Result, draw_cosines, quantiles
from figures.gradients import Scores, both_answers, cosine, map_batches
from keras_traps._checks import FloatArray
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder

# The points of one draw.
_BLOCK = 256
_EPS = 0.9

DensityGradient = Callable[..., tuple[tf.Tensor, tf.Tensor]]
"""From images, classes and ids to gradients `(batch, models, ...)`, which are 0 where
no point or every one was of the class, and `(batch, models)`, the share that was."""


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
