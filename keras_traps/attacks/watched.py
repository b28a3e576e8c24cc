"""A detector as attacks meet it."""

import dataclasses
import weakref
from collections.abc import Callable, Hashable
from typing import Any, cast

import numpy as np
import tensorflow as tf

from keras_traps._checks import Bounds, FloatArray, IntArray
from keras_traps._pixels import from_unit
from keras_traps.attacks.loop import refuse
from keras_traps.detectors.base import Detection, Detector


@dataclasses.dataclass(frozen=True, eq=False)
class Watched:
    """A detector that watches what an attack shows, and flags at its largest rate.

    Args:
        detector: The detector.
        bounds: The least and the largest value of a pixel, as it takes them.
        shape: Of an image, as it takes it.
    """

    detector: Detector
    bounds: Bounds
    shape: tuple[int, ...]

    @property
    def threshold(self) -> float:
        """The score above which images are flagged."""
        return self.detector.threshold()

    @property
    def key(self) -> Hashable:
        """What is compiled for a detector is kept by; another one after a new fit."""
        return weakref.ref(self.detector), self.threshold, self.bounds

    def detect(self, images: FloatArray, ids: IntArray) -> Detection:
        """Asks about images in [0, 1]; `ids` says of which examples.

        Raises:
            RuntimeError: If a score is not finite.
        """
        taken = from_unit(images.reshape(-1, *self.shape), self.bounds)
        return self.detect_taken(taken, ids)

    def detect_taken(self, images: FloatArray, ids: IntArray) -> Detection:
        """Does the same with images as the model takes them."""
        found = self.detector.detect(images)
        # An example may be shown in several rows.
        wrong = np.unique(ids[~np.isfinite(found.score)])
        fault = f"{type(self.detector).__name__} gave scores that are not finite,"
        refuse(np.ones_like(wrong, bool), wrong, fault)
        return found

    def differentiable(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the score of images in [0, 1], `(batch,)`, for a compiled loop."""
        low, high = self.bounds
        # What is kept with a model is not to keep a detector that may hold that model.
        reference, shape = weakref.ref(self.detector), self.shape

        def score(images: tf.Tensor) -> tf.Tensor:
            alive = cast(Any, reference())
            taken = tf.reshape(images, (-1, *shape)) * (high - low) + low
            return tf.ensure_shape(alive.tf_score(taken), (None,))

        return score
