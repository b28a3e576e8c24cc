"""What a detector is: a score of images, and thresholds set on clean ones."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray, check_share
from keras_traps.rates import threshold_rank

# Rounding of float32 in batches of other sizes, and in a graph.
_RTOL, _ATOL = 1e-3, 1e-4


class Detection(Protocol):
    """What any detector says of a batch.

    `is_adversarial` is `(batch,)`, bool, and `score` `(batch,)`, float32.
    """

    @property
    def is_adversarial(self) -> npt.NDArray[np.bool_]:
        """Which images are flagged."""

    @property
    def score(self) -> FloatArray:
        """How adversarial each is."""


@runtime_checkable
class Detector(Protocol):
    """Tells attacked images from clean ones by a score, higher for more adversarial.

    Images are those that the model takes, in its own bounds. `ScoreDetector` is a base
    for one's own, and `keras_traps.ForensicAnalyzer` one that is there. A detector with
    a `tf_score(images: tf.Tensor) -> tf.Tensor` too, the same score as a function
    of TensorFlow with a gradient, can be attacked by those who follow it.
    """

    @property
    def fprs(self) -> tuple[float, ...]:
        """The false-positive rates that there are thresholds for, the largest first."""

    def threshold(self, fpr: float | None = None) -> float:
        """Returns the score above which images are flagged.

        Args:
            fpr: The false-positive rate. Defaults to `None`: the largest.

        Returns:
            The threshold.
        """

    def score(self, images: npt.ArrayLike) -> FloatArray:
        """Returns how adversarial each image is.

        Args:
            images: `(batch, ...)`, as the model takes them.

        Returns:
            `(batch,)`, float32, finite.
        """

    def detect(self, images: npt.ArrayLike) -> Detection:
        """Says which images are adversarial, at the largest rate.

        Args:
            images: `(batch, ...)`, as the model takes them.

        Returns:
            Flags and scores.
        """


@dataclasses.dataclass(frozen=True)
class Detected:
    """What a `ScoreDetector` says of a batch.

    Args:
        is_adversarial: `(batch,)`, bool.
        score: `(batch,)`, float32, higher for more adversarial.
    """

    is_adversarial: npt.NDArray[np.bool_]
    score: FloatArray


class ScoreDetector(abc.ABC):
    """A detector that is a score; all that a subclass has to have is `score`.

    Thresholds are set on clean images that neither the classifier nor the score has
    learnt from: on the images of training each flags fewer than a new one.
    """

    _thresholds: dict[float, float] | None = None

    @abc.abstractmethod
    def score(self, images: npt.ArrayLike) -> FloatArray:
        """Returns how adversarial each image is.

        Args:
            images: `(batch, ...)`, as the model takes them.

        Returns:
            `(batch,)`, float32, finite.
        """

    def fit_threshold(self, images: npt.ArrayLike, fpr: float = 0.05) -> Self:
        """Sets the threshold of a false-positive rate, beside those of other rates.

        Args:
            images: `(images, ...)`: clean images that were held out.
            fpr: Share of new clean images that may be flagged. Defaults to `0.05`.

        Returns:
            The detector itself.

        Raises:
            ValueError: If `fpr` is not between 0 and 1, there are too few images for
                it, or a score is not finite.
        """
        fpr = check_share(fpr, name="fpr")
        scores = np.sort(np.asarray(self.score(images)))
        rank = threshold_rank(len(scores), fpr)
        if not np.isfinite(scores).all():
            raise ValueError(
                "Invalid value for argument `images`. Expected images with finite "
                f"scores. Received: scores up to {scores[-1]}"
            )
        self._thresholds = {**(self._thresholds or {}), fpr: float(scores[rank - 1])}
        return self

    @property
    def fprs(self) -> tuple[float, ...]:
        """The rates that thresholds were set for, the largest first."""
        return tuple(sorted(self._thresholds or (), reverse=True))

    def threshold(self, fpr: float | None = None) -> float:
        """Returns the score above which images are flagged.

        Args:
            fpr: The false-positive rate. Defaults to `None`: the largest.

        Returns:
            The threshold.

        Raises:
            RuntimeError: If none was set.
            ValueError: If none was set for this rate.
        """
        if not self._thresholds:
            raise RuntimeError(
                f"The {type(self).__name__} has no threshold yet: call `fit_threshold` "
                "first."
            )
        rate = max(self._thresholds) if fpr is None else fpr
        if rate not in self._thresholds:
            raise ValueError(
                f"Invalid value for argument `fpr`. Expected one of {self.fprs}, which "
                f"thresholds were set for. Received: fpr={fpr!r}"
            )
        return self._thresholds[rate]

    def detect(self, images: npt.ArrayLike) -> Detected:
        """Says which images are adversarial, at the largest rate.

        Args:
            images: `(batch, ...)`, as the model takes them.

        Returns:
            Flags and scores.

        Raises:
            RuntimeError: If no threshold was set.
        """
        threshold, score = self.threshold(), self.score(images)
        return Detected(score > threshold, score)


class AtRates(ScoreDetector):
    """The score of another detector, with thresholds of several rates.

    Args:
        detector: One whose score does not depend on the rate, such as a fitted
            `keras_traps.ForensicAnalyzer`.
        images: Clean images that were held out.
        fprs: The rates.

    Raises:
        ValueError: As `fit_threshold`.
    """

    def __init__(
        self, detector: Detector, images: npt.ArrayLike, fprs: Sequence[float]
    ) -> None:
        self._detector = detector
        if hasattr(detector, "tf_score"):
            self.tf_score = detector.tf_score
        for fpr in fprs:
            self.fit_threshold(images, fpr)

    def score(self, images: npt.ArrayLike) -> FloatArray:
        """Returns the detector's score."""
        return self._detector.score(images)


def check_detector(detector: Detector, images: FloatArray) -> None:
    """Checks that a detector keeps what `Detector` promises; for tests of one's own.

    Args:
        detector: A detector with a threshold.
        images: `(batch, ...)`, float32, at least two, as its model takes them.

    Returns:
        Nothing.

    Raises:
        TypeError: If it lacks a method.
        ValueError: If what a method returns is not as `Detector` says: a score of
            another shape, not finite or other in another batch, flags or thresholds
            that do not fit the scores, or a `tf_score` that is another one or has no
            finite gradient.
    """
    if not isinstance(detector, Detector):
        raise TypeError(
            "Invalid value for argument `detector`. Expected `fprs`, `threshold`, "
            f"`score` and `detect`. Received: {type(detector).__name__}"
        )
    # By its identity what is compiled for it is kept.
    hash(detector)

    def expect(holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(
                f"Invalid value for argument `detector`. Expected {expected}. "
                f"Received: a {type(detector).__name__} without that"
            )

    def alike(one: npt.ArrayLike, other: npt.ArrayLike) -> bool:
        return np.allclose(one, other, rtol=_RTOL, atol=_ATOL)

    rates = detector.fprs
    thresholds = [detector.threshold(fpr) for fpr in rates]
    expect(bool(rates), "a threshold for some rate")
    expect(list(rates) == sorted(rates, reverse=True), "the largest of `fprs` first")
    expect(thresholds == sorted(thresholds), "higher thresholds for lower rates")
    expect(detector.threshold() == thresholds[0], "the largest rate's threshold")
    scores = detector.score(images)
    expect(scores.shape == (len(images),), "one score for each image")
    expect(scores.dtype == np.float32, "scores of float32")
    expect(bool(np.isfinite(scores).all()), "finite scores")
    one_by_one = [detector.score(one[None])[0] for one in images]
    expect(alike(one_by_one, scores), "the same scores in any batch")
    found = detector.detect(images)
    expect(alike(found.score, scores), "the same scores from `detect`")
    apart = ~np.isclose(scores, thresholds[0], rtol=_RTOL, atol=_ATOL)
    flagged = scores > thresholds[0]
    expect(
        bool((found.is_adversarial == flagged)[apart].all()),
        "`detect` to flag what has a score above the threshold",
    )
    function = getattr(detector, "tf_score", None)
    if function is None:
        return
    shape = (None, *images.shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
    def with_gradient(shown: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(shown)
            score = function(shown)
        gradient = tape.gradient(score, shown)
        expect(gradient is not None, "a `tf_score` with a gradient")
        return score, gradient

    score, gradient = (part.numpy() for part in with_gradient(tf.constant(images)))
    expect(score.shape == scores.shape, "one number from `tf_score` for each image")
    expect(alike(score, scores), "the numbers of `score` from `tf_score`")
    expect(bool(np.isfinite(gradient).all()), "a finite gradient of `tf_score`")
