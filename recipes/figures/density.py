"""Figure 7 (b): whether the local density rises towards the nearest attractor."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from figures.directions import Scale, basin_share, find_ways
from figures.drawing import MUTED, Result, blank, draw_densities, quantiles
from figures.gradients import Scores, both_answers, cosine, map_batches
from keras_traps._checks import FloatArray, check_count, check_positive
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder

# The points of one draw.
_BLOCK = 256
_EPS = 0.9
_MODELS = ("C", "M")

DensityGradient = Callable[
    [tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]
]
"""From images `(batch, ...)`, classes and ids `(batch,)` to the gradients, `(batch,
models, ...)`, per unit of pixel value, which are 0 where no point or every one was of
the class; and `(batch, models)`, the share of the points of the class."""


def density_gradient(
    scores: Scores,
    shape: Sequence[int],
    *,
    delta: float,
    samples: int,
    seed: int = 0,
) -> DensityGradient:
    r"""Estimates the gradient of H_delta(x, t), the share of points answered with t.

    The points around x are those of the ball, the paper's "within the sphere":

    $$H_\delta(x, t) = P[\arg\max M(x + \delta v) = t], \quad v \in B^\ell$$

    By the divergence theorem its gradient needs points on the sphere only,

    $$\nabla H_\delta(x, t) = \frac{\ell}{\delta} E[1_t(x + \delta u)\, u], \quad
      u \in S^{\ell - 1}$$

    which is estimated from n independent points by the score-function estimator with
    a leave-one-out baseline,

    $$g = \frac{\ell}{\delta (n - 1)} \sum_i (1_t(x + \delta u_i) - \bar 1_t) u_i$$

    It has no bias. With p the share of hits on the sphere, the variances of its
    entries add up to $(\ell^2 p (1 - p) / \delta^2 - |\nabla H|^2) / n$, up to terms
    of the order $1 / n^2$. Points are not held inside the pixel range.

    Args:
        scores: A function from images to `(batch, models, num_classes)`: several models
            at the same points.
        shape: Shape of one image.
        delta: Radius, above 0, in L2 for pixels in [0, 1].
        samples: How many points for each image, at least 2.
        seed: Seed of the points. Each image has points of its own, which depend on the
            seed and its id, not on the other images. Defaults to `0`.

    Returns:
        The estimate, to be called inside a graph.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section IV-B; Flaxman, Kalai, McMahan, Online convex optimization in
        the bandit setting, 2005, Lemma 1.
    """
    check_positive("delta", delta)
    check_count("samples", samples, at_least=2)
    pixels, block = math.prod(shape), min(_BLOCK, samples)
    compiled = tf.function(scores, autograph=False).get_concrete_function(
        tf.TensorSpec((None, *shape), tf.float32)
    )
    models = int(compiled.output_shapes[1])

    def look_around(
        image: tf.Tensor, goal: tf.Tensor, example: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
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

    def estimate(
        images: tf.Tensor, classes: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        shapes = (
            tf.TensorSpec((models, *shape), tf.float32),
            tf.TensorSpec((models,), tf.float32),
        )
        found: tuple[tf.Tensor, tf.Tensor] = tf.map_fn(
            lambda row: look_around(*row),
            (images, classes, ids),
            fn_output_signature=shapes,
        )
        return found

    return estimate


class DensityCosines(NamedTuple):
    """How well the gradient of the local density agrees with the way to an attractor.

    Args:
        cosines: `(images, models)`, float32: cos(x_w - x, grad H). NaN where no point
            was of class t, or every one was, so that there is no direction.
        hits: `(images, models)`, float32: the share of the points that was.
    """

    cosines: FloatArray
    hits: FloatArray


def density_cosines(
    decoder: QIMDecoder,
    scores: Scores,
    images: FloatArray,
    *,
    delta: float,
    samples: int,
    scale: Scale = "nearest",
    seed: int = 0,
) -> DensityCosines:
    """Compares the gradient of the local density with the way to an attractor.

    Args:
        decoder: A built decoder.
        scores: As for `density_gradient`.
        images: `(images, ...)`, float32, pixels in [0, 1].
        delta: Radius, above 0, in L2 for pixels in [0, 1].
        samples: How many points for each image, at least 2.
        scale: Which pixels hold the attractors' messages. Defaults to `"nearest"`.
        seed: Seed of the points. Defaults to `0`.

    Returns:
        The cosines. No gradient or attractor is kept beyond its batch.

    Reference:
        Zhang, Chang, Lee, Section VI-C3.
    """
    estimate = density_gradient(
        scores, images.shape[1:], delta=delta, samples=samples, seed=seed
    )

    def compare(batch: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = find_ways(decoder, batch, scale=scale)
        gradients, hits = estimate(batch, found.classes, ids)
        flat = tf.reshape(gradients, tf.concat([tf.shape(hits), [-1]], axis=0))
        return cosine(flat, found.ways[:, tf.newaxis]), hits

    # A few images at a time: their points are what takes the memory.
    return DensityCosines(
        *map_batches(compare, images, np.arange(len(images)), batch_size=32)
    )


def figure_7b(
    trapped: keras.Model, test: Dataset, *, delta: float, samples: int, seed: int = 0
) -> Result:
    """Compares the gradient of the local density with the way to an attractor.

    The radius `delta` is in L2 for pixels in [0, 1]; `samples` points are around each.
    """
    decoder = decoder_of(trapped)
    large = max(decoder.steps)
    found = density_cosines(
        decoder,
        both_answers(trapped),
        test.images,
        delta=delta,
        samples=samples,
        scale=large,
        seed=seed,
    )
    cosines = dict(zip(_MODELS, found.cosines.T, strict=True))
    facts: dict[str, dict[str, Any]] = {
        model: {
            "in_basin": basin_share(of, _EPS),
            "cosine": quantiles(of),
            "without": float(np.isnan(of).mean()),
            "hits": quantiles(hits),
        }
        for (model, of), hits in zip(cosines.items(), found.hits.T, strict=True)
    }
    picture = blank(6.4, 3.4)
    axes = picture.subplots()
    draw_densities(axes, cosines, "Cosine of x_w - x and grad H(x, t)")
    axes.axvline(1 - _EPS, color=MUTED, linestyle=":", linewidth=1)
    size = test.images[0].size
    name = f"figure7b_{test.name}"
    return Result(
        name=name,
        title=f"Figure 7 (b) on {test.name}: does the density rise to an attractor?",
        pictures={name: picture},
        text=(
            "Cosine similarity of the way to the nearest attractor on the pixels of "
            f"step {large:g}, x_w - x, with the gradient of the local density H(x, t), "
            "on clean test images. The radius is a root mean square of "
            f"{255 * delta / size**0.5:.0f} grey levels per pixel. Images of which no "
            "point is answered with t, the class of x_w, have no gradient and count as "
            f"outside. In a basin at ε = {_EPS:g}, beyond the dotted line, are "
            f"{facts['M']['in_basin']:.1%} for M, in the paper more than half.\n\n"
            "The cosines are those of noisy estimates, and would be higher with more "
            "points. A random direction's cosine has a standard deviation of "
            f"{size**-0.5:.3f}. The paper does not give its radius. It has to be so "
            "large that some points are answered with t at all, and noise of that size "
            "averages out the pull of the small step."
        ),
        numbers={
            "images": len(test),
            "delta": delta,
            "samples": samples,
            "step": large,
            **facts,
        },
    )
