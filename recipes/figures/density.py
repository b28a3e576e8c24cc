"""The local density of a class and its gradient, by Monte-Carlo."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import IntArray, check_images, check_labels
from keras_traps.attractors.analysis.batches import map_batches
from keras_traps.attractors.analysis.scores import Scores

# Of one draw, whatever the batch size: the points must not depend on it.
_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class DensityEstimate:
    """An estimate for each image.

    Args:
        value: `(images,)` for a density, `(images, ...)` for a gradient, float32; with
            an axis of models after the first where there are several.
        standard_error: `(images,)` or `(images, models)`, float32: the estimate's own
            standard error; of a gradient, the root of its expected squared distance to
            the true one.
        hits: The same shape: the share of the points of class t.
    """

    value: npt.NDArray[np.float32]
    standard_error: npt.NDArray[np.float32]
    hits: npt.NDArray[np.float32]


class LocalDensity:
    r"""H_delta(x, t): the share of the points around x that a model answers with t.

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
        scores: A function from images to `(batch, num_classes)`; or to `(batch,
            models, num_classes)`, for several models at the same points.
        shape: Shape of one image.
        delta: Radius, above 0, in L2 for pixels in [0, 1].
        samples: How many points for each image, at least 2.
        seed: Seed of the points. Each image has points of its own, which depend on
            the seed and its id, its place in the array: not on `batch_size`, nor on
            the other images. Defaults to `0`.
        batch_size: How many points to score at once; no more than 256 are, which are
            drawn together. Defaults to `256`.

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
        batch_size: int = 256,
    ) -> None:
        if not (math.isfinite(delta) and delta > 0):
            raise ValueError(
                "Invalid value for argument `delta`. Expected a finite number above 0. "
                f"Received: delta={delta}"
            )
        for name, count, low in (
            ("samples", samples, 2),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
        ):
            if isinstance(count, bool) or int(count) != count or count < low:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected an integer of at "
                    f"least {low}. Received: {name}={count}"
                )
        self.delta, self.samples, self.seed = float(delta), int(samples), int(seed)
        self._shape = tuple(int(size) for size in shape)
        self._pixels = math.prod(self._shape)
        self._block = min(_BLOCK, self.samples)
        self._step = min(int(batch_size), self._block)
        self._scores = tf.function(scores, autograph=False).get_concrete_function(
            tf.TensorSpec((None, *self._shape), tf.float32)
        )
        found = self._scores.output_shapes
        if found.rank not in (2, 3):
            raise ValueError(
                "Invalid value for argument `scores`. Expected scores (batch, "
                "num_classes) or (batch, models, num_classes). "
                f"Received shape: {found}"
            )
        self._models = found[1:-1]
        self._num_classes = int(found[-1])

    def density(self, images: npt.ArrayLike, classes: npt.ArrayLike) -> DensityEstimate:
        """Estimates H_delta(x, t) from points in the ball.

        Args:
            images: `(images, ...)`, floating point, pixels in [0, 1].
            classes: `(images,)`, integers: t.

        Returns:
            The densities; their hits are the same numbers.

        Raises:
            TypeError: If images are integers, or classes are not.
            ValueError: If images are none or do not fit, or classes do not.
        """

        def estimate(*batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
            hits, _ = self._look_around(*batch, on_sphere=False)
            error = tf.sqrt(hits * (1.0 - hits) / (self.samples - 1))
            return hits, error, hits

        return self._map(estimate, images, classes)

    def gradient(
        self, images: npt.ArrayLike, classes: npt.ArrayLike
    ) -> DensityEstimate:
        """Estimates the gradient of H_delta(x, t) from points on the sphere.

        Args:
            images: `(images, ...)`, floating point, pixels in [0, 1].
            classes: `(images,)`, integers: t.

        Returns:
            The gradients, per unit of pixel value; 0 where no point was of class t, or
            every one was.

        Raises:
            TypeError: If images are integers, or classes are not.
            ValueError: If images are none or do not fit, or classes do not.
        """
        return self._map(self.gradient_graph, images, classes)

    def gradient_graph(
        self, images: tf.Tensor, classes: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Does what `gradient` does inside a graph.

        Args:
            images: `(batch, ...)`, float32.
            classes: `(batch,)`, int64.
            ids: `(batch,)`, int64: which example each is.

        Returns:
            The gradients, their standard errors, and the hits.
        """
        hits, sums = self._look_around(images, classes, ids, on_sphere=True)
        scale, n = self._pixels / self.delta, self.samples
        gradients = sums * (scale / (n - 1))
        axes = list(
            range(gradients.shape.rank - len(self._shape), gradients.shape.rank)
        )
        squared = tf.reduce_sum(gradients**2, axis=axes)
        # Of the terms (l / delta)(1_i - mean) u_i n / (n - 1), the unit vectors u_i.
        spread = scale**2 * hits * (1.0 - hits) * (n / (n - 1)) ** 2
        error = tf.sqrt(tf.maximum(spread - squared, 0.0) / (n - 1))
        return gradients, error, hits

    def _map(
        self, graph: Any, images: npt.ArrayLike, classes: npt.ArrayLike
    ) -> DensityEstimate:
        array = check_images(images, self._shape)
        given = check_labels(classes, len(array), self._num_classes, name="classes")
        ids: IntArray = np.arange(len(array))
        # A few images at a time: their points are what takes the memory.
        return DensityEstimate(*map_batches(graph, array, given, ids, batch_size=32))

    def _look_around(
        self, images: tf.Tensor, classes: tf.Tensor, ids: tf.Tensor, *, on_sphere: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The share of hits of each image, and the sum of (1 - mean) u."""

        def one(row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
            image, goal, example = row
            return self._look_around_one(image, goal, example, on_sphere)

        shapes = (
            tf.TensorSpec(self._models, tf.float32),
            tf.TensorSpec((*self._models, *self._shape), tf.float32),
        )
        found: tuple[tf.Tensor, tf.Tensor] = tf.map_fn(
            one, (images, classes, ids), fn_output_signature=shapes
        )
        return found

    def _look_around_one(
        self, image: tf.Tensor, goal: tf.Tensor, example: tf.Tensor, on_sphere: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        fold_in = tf.random.fold_in
        own_seed = fold_in(tf.constant([self.seed, 0]), example)

        def body(
            start: tf.Tensor, count: tf.Tensor, towards: tf.Tensor, all_: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            seed = fold_in(own_seed, start)
            unit = self._directions(seed, on_sphere)[: self.samples - start]
            answers = self._answers(image + self.delta * unit)
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
                tf.zeros((*self._models, *self._shape)),
                tf.zeros(self._shape),
            ),
        )
        share = count / self.samples
        return share, towards - tf.tensordot(share, all_, axes=0)

    def _answers(self, points: tf.Tensor) -> tf.Tensor:
        """The classes of highest score, `(points, ...)`, a batch at a time."""
        _, answers = tf.while_loop(
            lambda first, _: first < tf.shape(points)[0],
            lambda first, found: (
                first + self._step,
                tf.concat([found, self._classes_of(points, first)], axis=0),
            ),
            (0, tf.zeros((0, *self._models), tf.int64)),
            shape_invariants=(
                tf.TensorShape([]),
                tf.TensorShape([None, *self._models]),
            ),
        )
        return answers

    def _classes_of(self, points: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        return tf.argmax(self._scores(points[first : first + self._step]), axis=-1)

    def _directions(self, seed: tf.Tensor, on_sphere: bool) -> tf.Tensor:
        """Uniform points of the unit sphere, or of the unit ball."""
        normal = tf.random.stateless_normal((self._block, self._pixels), seed)
        unit = normal / tf.norm(normal, axis=1, keepdims=True)
        if not on_sphere:
            draw = tf.random.stateless_uniform((self._block, 1), seed + 1)
            unit *= draw ** (1.0 / self._pixels)
        return tf.reshape(unit, (self._block, *self._shape))
