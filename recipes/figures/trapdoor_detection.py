"""How attacks on a trapdoored model are looked for: by its decoder, by signatures."""

import dataclasses
from typing import Self

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, IntArray, check_images, check_share
from keras_traps.attractors.counterexample import Counterexample
from keras_traps.attractors.thresholds import (
    Thresholds,
    set_thresholds,
    statistics_of,
)
from keras_traps.models.inference import predict


@dataclasses.dataclass(frozen=True)
class TrapdoorVerdict:
    """What is flagged, by either way of looking.

    Args:
        by_decoder: `(batch,)`, bool: the conditions C1 to C3 on the trapdoor decoder's
            output, as the attractors' own analyzer has them on W.
        by_signature: `(batch,)`, bool: the cosine similarity with the signature of the
            class that the model answers is too high, as the trapdoor's authors do it.
        by_detector: `(batch,)`, bool: D is above 1/2.
    """

    by_decoder: npt.NDArray[np.bool_]
    by_signature: npt.NDArray[np.bool_]
    by_detector: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class TrapdoorAnalyzer:
    """Looks for attacks on the counter-example; `fit` makes one.

    Args:
        subject: The counter-example.
        thresholds: U, L and sigma_0 for its decoder's output.
        signatures: `(num_classes, num_classes)`, float32, rows of norm 1: the mean
            activations of the images with each trapdoor. The activations are the
            correlations, what the decoder's last layer sees.
        limit: The cosine similarity above which an image is flagged.
    """

    subject: Counterexample
    thresholds: Thresholds
    signatures: FloatArray
    limit: float

    @classmethod
    def fit(
        cls, subject: Counterexample, images: npt.ArrayLike, *, fpr: float = 0.05
    ) -> Self:
        """Sets both ways of looking to a false-positive rate.

        Args:
            subject: The counter-example.
            images: `(images, ...)`, floating point, pixels in [0, 1]: clean images, at
                least one for each class's trapdoor.
            fpr: Share of clean images that either way may flag. Defaults to `0.05`.

        Returns:
            The analyzer.

        Raises:
            TypeError: If images are integers.
            ValueError: If `fpr` is not between 0 and 1, or there are too few images
                for it or fewer than classes.
        """
        check_share(fpr, name="fpr")
        clean = check_images(images, subject.trapdoors.shape[1:])
        count = len(subject.trapdoors)
        if len(clean) < count:
            raise ValueError(
                f"Invalid value for argument `images`. Expected at least {count} "
                f"clean images, one for each class. Received: {len(clean)} images."
            )
        thresholds = set_thresholds(predict(subject.decoder, clean), fpr)
        classes: IntArray = np.arange(len(clean)) % count
        planted = predict(subject.correlations, subject.plant(clean, classes))
        means = np.stack([planted[classes == k].mean(axis=0) for k in range(count)])
        signatures = _unit(means)
        scores = _cosines(subject, signatures, clean)
        limit = float(np.quantile(scores, 1 - fpr, method="higher"))
        return cls(subject, thresholds, signatures, limit)

    def detect(self, images: npt.ArrayLike) -> TrapdoorVerdict:
        """Says which images are flagged.

        Args:
            images: `(batch, ...)`, floating point, pixels in [0, 1].

        Returns:
            The verdict.

        Raises:
            TypeError: If images are integers.
            ValueError: If they do not fit, or a pixel is not in [0, 1].
        """
        array = check_images(images, self.subject.trapdoors.shape[1:])
        t = self.thresholds
        limits = (t.upper, -t.lower, t.deviation)
        statistics = statistics_of(predict(self.subject.decoder, array))
        fired: npt.NDArray[np.bool_] = statistics > np.asarray(limits)
        cosines = _cosines(self.subject, self.signatures, array)
        return TrapdoorVerdict(
            by_decoder=np.any(fired, axis=1),
            by_signature=cosines > self.limit,
            by_detector=predict(self.subject.detector, array)[:, 0] > 0.5,
        )


def _cosines(
    subject: Counterexample, signatures: FloatArray, images: FloatArray
) -> FloatArray:
    """Of each image's activations with the signature of the model's answer."""
    answers = predict(subject.model, images).argmax(axis=1)
    activations = _unit(predict(subject.correlations, images))
    cosines: FloatArray = (activations * signatures[answers]).sum(axis=1)
    return cosines


def _unit(rows: FloatArray) -> FloatArray:
    # A black image has no activations at all; its cosine is 0.
    norms: FloatArray = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    norms[norms == 0] = 1
    return rows / norms
