"""Figure 7 (b): whether the local density rises towards the nearest attractor."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from figures.directions import Scale, basin_share, find_ways
from figures.drawing import MUTED, Result, blank, draw_densities, quantiles
from figures.gradients import Scores, both_answers, cosine, map_batches
from keras_traps._checks import IntArray, check_count, check_images, check_positive
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder

# The points of one draw.
_BLOCK = 256
_EPS = 0.9
_MODELS = ("C", "M")


class LocalDensity:
    r"""The gradient of H_delta(x, t), the share of the points around x answered with t.

    The points are those of the ball, the paper's "within the sphere":

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

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section IV-B; Flaxman, Kalai, McMahan, Online convex optimization in
        the bandit setting, 2005, Lemma 1.
    """

    def __init__(
        self,
        scores: Scores,
        shape: Sequence[int],
        *,
        delta: float,
        samples: int,
        seed: int = 0,
    ) -> None:
        check_positive("delta", delta)
        check_count("samples", samples, at_least=2)
        self.delta, self.samples, self.seed = float(delta), samples, seed
        self._shape = tuple(int(size) for size in shape)
        self._pixels = math.prod(self._shape)
        self._block = min(_BLOCK, samples)
        self._scores = tf.function(scores, autograph=False).get_concrete_function(
            tf.TensorSpec((None, *self._shape), tf.float32)
        )
        self._models = int(self._scores.output_shapes[1])

    def gradient(
        self, images: tf.Tensor, classes: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Estimates the gradients inside a graph.

        Args:
            images: `(batch, ...)`, float32.
            classes: `(batch,)`, int64: t.
            ids: `(batch,)`, int64: which example each is.

        Returns:
            The gradients, `(batch, models, ...)`, per unit of pixel value, which are 0
            where no point was of class t or every one was; and `(batch, models)`, the
            share of the points of class t.
        """
        shapes = (
            tf.TensorSpec((self._models, *self._shape), tf.float32),
            tf.TensorSpec((self._models,), tf.float32),
        )
        found: tuple[tf.Tensor, tf.Tensor] = tf.map_fn(
            lambda row: self._look_around(*row),
            (images, classes, ids),
            fn_output_signature=shapes,
        )
        return found

    def _look_around(
        self, image: tf.Tensor, goal: tf.Tensor, example: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        own_seed = tf.random.fold_in(tf.constant([self.seed, 0]), example)

        def body(
            start: tf.Tensor, count: tf.Tensor, towards: tf.Tensor, all_: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            seed = tf.random.fold_in(own_seed, start)
            unit = self._directions(seed)[: self.samples - start]
            answers = tf.argmax(self._scores(image + self.delta * unit), axis=-1)
            hits = tf.cast(tf.equal(answers, goal), tf.float32)
            return (
                start + self._block,
                count + tf.reduce_sum(hits, axis=0),
                towards + tf.tensordot(hits, unit, [[0], [0]]),
                all_ + tf.reduce_sum(unit, axis=0),
            )

        _, count, towards, all_ = tf.while_loop(
            lambda start, *_: start < self.samples,
            body,
            (
                0,
                tf.zeros(self._models),
                tf.zeros((self._models, *self._shape)),
                tf.zeros(self._shape),
            ),
        )
        share = count / self.samples
        scale = self._pixels / self.delta / (self.samples - 1)
        return scale * (towards - tf.tensordot(share, all_, axes=0)), share

    def _directions(self, seed: tf.Tensor) -> tf.Tensor:
        normal = tf.random.stateless_normal((self._block, self._pixels), seed)
        unit = normal / tf.norm(normal, axis=1, keepdims=True)
        return tf.reshape(unit, (self._block, *self._shape))


class DensityCosines(NamedTuple):
    """How well the gradient of the local density agrees with the way to an attractor.

    Args:
        cosines: `(images, models)`, float32: cos(x_w - x, grad H). NaN where no point
            was of class t, or every one was, so that there is no direction.
        hits: `(images, models)`: the share of the points on the sphere of class t.
    """

    cosines: npt.NDArray[np.float32]
    hits: npt.NDArray[np.float32]


def density_cosines(
    decoder: QIMDecoder,
    scores: Scores,
    images: npt.ArrayLike,
    *,
    delta: float,
    samples: int,
    scale: Scale = "nearest",
    seed: int = 0,
) -> DensityCosines:
    """Compares the gradient of the local density with the way to an attractor.

    Args:
        decoder: A built decoder.
        scores: See `LocalDensity`.
        images: `(images, ...)`, floating point, pixels in [0, 1].
        delta: Radius, above 0, in L2 for pixels in [0, 1].
        samples: How many points for each image, at least 2.
        scale: Which pixels hold the attractors' messages. Defaults to `"nearest"`.
        seed: Seed of the points. Defaults to `0`.

    Returns:
        The cosines. No gradient or attractor is kept beyond its batch.

    Raises:
        TypeError: If images are integers.
        ValueError: If there are no images, they do not fit the decoder, a pixel is not
            in [0, 1], or an argument is out of range.

    Reference:
        Zhang, Chang, Lee, Section VI-C3.
    """
    array = check_images(images, decoder.image_shape)
    local = LocalDensity(
        scores, array.shape[1:], delta=delta, samples=samples, seed=seed
    )

    def compare(batch: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = find_ways(decoder, batch, scale=scale)
        gradients, hits = local.gradient(batch, found.classes, ids)
        flat = tf.reshape(gradients, tf.concat([tf.shape(hits), [-1]], axis=0))
        return cosine(flat, found.ways[:, tf.newaxis]), hits

    ids: IntArray = np.arange(len(array))
    # A few images at a time: their points are what takes the memory.
    return DensityCosines(*map_batches(compare, array, ids, batch_size=32))


def figure_7b(
    trapped: keras.Model,
    test: Dataset,
    *,
    delta: float,
    samples: int,
    seed: int = 0,
) -> Result:
    """Compares the gradient of the local density with the way to an attractor.

    Args:
        trapped: M.
        test: Clean images.
        delta: Radius, above 0, in L2 for pixels in [0, 1].
        samples: How many points for each image, at least 2.
        seed: Seed of the points. Defaults to `0`.

    Returns:
        Figure 7 (b) of the attractor paper.

    Raises:
        ValueError: If an argument is out of range.
    """
    started = time.perf_counter()
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
    facts: dict[str, dict[str, Any]] = {
        model: {
            "in_basin": basin_share(found.cosines[:, i], _EPS),
            "cosine": quantiles(found.cosines[:, i]),
            "without": float(np.isnan(found.cosines[:, i]).mean()),
            "hits": quantiles(found.hits[:, i]),
        }
        for i, model in enumerate(_MODELS)
    }
    picture = blank(6.4, 3.4)
    axes = picture.subplots()
    shown = {model: found.cosines[:, i] for i, model in enumerate(_MODELS)}
    draw_densities(axes, shown, "Cosine of x_w - x and grad H(x, t)")
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
            f"on {len(test):,} clean test images with {samples:,} points around each. "
            f"The radius {delta:g} is a root mean square of "
            f"{255 * delta / size**0.5:.0f} grey levels per pixel. Images of which no "
            "point is answered with t, the class of x_w, have no gradient and count as "
            f"outside: {facts['C']['without']:.0%} for C, {facts['M']['without']:.0%} "
            f"for M. The dotted line is at 1 - ε for ε = {_EPS:g}; beyond it lie "
            f"{facts['M']['in_basin']:.1%} for M, in the paper more than half.\n\n"
            "The cosines are those of noisy estimates, and would be higher with more "
            "points. A random direction's cosine has a standard deviation of "
            f"{size**-0.5:.3f}.\n\n"
            "The paper does not give its radius. It has to be so large that some "
            "points are answered with t at all, and noise of that size averages out "
            "the pull of the small step, so the attractors of the large one are looked "
            "at."
        ),
        numbers={
            "images": len(test),
            "seconds": round(time.perf_counter() - started, 1),
            "delta": delta,
            "samples": samples,
            "step": large,
            **facts,
        },
    )
