"""What a detector is: a score of images, and thresholds set on clean ones."""

import abc
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import Bounds, FloatArray, check_images, check_share, is_number
from keras_traps._files import make_writable, write_atomically
from keras_traps.layers.luring_input import to_unit
from keras_traps.models.forms import find_bounds, image_shape
from keras_traps.models.inference import TRACING, batch_size_for
from keras_traps.models.outputs import Output, check_classifier, check_on_noise
from keras_traps.models.training import save_model
from keras_traps.provenance import weights_sha256
from keras_traps.rates import threshold_rank

Parts = Mapping[str, keras.Model | npt.NDArray[Any]]
"""What a detector has learnt, by name: networks, and arrays of numbers."""

_FORMAT, RECORD = "keras_traps.detector.v1", "detector.json"

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


class ClassifierDetector(ScoreDetector):
    """A score of what a classifier makes of images, which can be saved.

    A subclass has `tf_score`, and `score` is the same batch by batch. Where its
    constructor takes more than `output` and `bounds`, it adds that to `_config`; what
    it learns it returns from `_parts`, and takes back in `_restore`.

    Args:
        classifier: Called with `training=False`.
        output: What it returns.
        bounds: The least and the largest value of a pixel, as the classifier takes it.
            Defaults to `None`: those of traps in it, else `(0.0, 1.0)`.

    Raises:
        TypeError: If `classifier` is not a Keras model.
        ValueError: If it is not a built classifier, does not return what `output` says,
            or `bounds` do not fit it.
    """

    def __init__(
        self, classifier: keras.Model, *, output: Output, bounds: Bounds | None = None
    ) -> None:
        check_classifier(classifier, output)
        self.classifier, self.output = classifier, output
        self.bounds = find_bounds(classifier, bounds, name="classifier")
        check_on_noise(classifier, output, self.bounds)

    @abc.abstractmethod
    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns how adversarial each image is, with a gradient.

        Args:
            images: `(batch, ...)`, float32, as the classifier takes them.

        Returns:
            `(batch,)`, float32.

        Raises:
            RuntimeError: If the score is to be learnt first.
        """

    def score(self, images: npt.ArrayLike) -> FloatArray:
        """Returns how adversarial each image is.

        Args:
            images: `(batch, ...)`, as the classifier takes them.

        Returns:
            `(batch,)`, float32.

        Raises:
            RuntimeError: If the score is to be learnt first.
            TypeError: If images are integers and the bounds are not.
            ValueError: If a pixel is not in `bounds`, or images are of another shape.
        """
        given = self._check(images)
        size = batch_size_for(given.shape[1:])
        return np.concatenate(
            [
                self._compiled(tf.constant(given[start : start + size])).numpy()
                for start in range(0, len(given), size)
            ]
        )

    def save(self, directory: str | Path) -> None:
        """Writes the detector, with its thresholds and without its classifier.

        What it has learnt is written as files of Keras and NumPy, the rest as JSON.

        Args:
            directory: Where to; a detector that is there is replaced.

        Raises:
            RuntimeError: If the score is to be learnt first.
            OSError: If a file cannot be written.
        """
        parts = self._parts()
        directory = Path(directory)
        make_writable(directory, name="directory")
        hashes = {}
        for name, part in parts.items():
            path = directory / name
            if isinstance(part, keras.Model):
                save_model(part, path)
            else:
                content = io.BytesIO()
                np.save(content, part, allow_pickle=False)
                write_atomically(path, content.getvalue())
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        record = {
            "format": _FORMAT,
            "detector": type(self).__name__,
            "classifier": weights_sha256(self.classifier),
            "thresholds": sorted((self._thresholds or {}).items()),
            "config": self._config(),
            "parts": hashes,
        }
        # At last: it tells by their hashes which files belong to it.
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(directory / RECORD, text.encode())

    @classmethod
    def load(cls, directory: str | Path, classifier: keras.Model) -> Self:
        """Reads what `save` wrote.

        Args:
            directory: Where it was written to.
            classifier: The classifier that the detector is for.

        Returns:
            The detector, with its thresholds.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is damaged, or the detector is of another kind or for
                a classifier with other weights.
        """
        directory = Path(directory)
        text = (directory / RECORD).read_text(encoding="utf-8")
        try:
            record = json.loads(text)
            if record["format"] != _FORMAT:
                raise KeyError(record["format"])
            kind, expected = record["detector"], record["classifier"]
            thresholds = {_number(fpr): _number(at) for fpr, at in record["thresholds"]}
            config, hashes = dict(record["config"]), dict(record["parts"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{directory} holds no saved detector: {error!r}"
            ) from error
        if kind != cls.__name__:
            raise ValueError(
                f"The detector in {directory} is of another kind: expected "
                f"{cls.__name__}, received {kind}."
            )
        if (found := weights_sha256(classifier)) != expected:
            raise ValueError(
                f"The detector in {directory} is for another classifier: expected one "
                f"whose weights have the hash {str(expected)[:12]}, received "
                f"{found[:12]}. Fit a new one for this classifier."
            )
        parts = {
            name: _read_part(directory / name, known) for name, known in hashes.items()
        }
        return cls._rebuilt(classifier, config, parts, thresholds or None)

    def __reduce__(self) -> tuple[Any, ...]:
        # What is compiled cannot be sent to another process.
        try:
            parts = self._parts()
        except RuntimeError:  # nothing is learnt yet
            parts = {}
        rest = self._config(), parts, self._thresholds
        return self._rebuilt, (self.classifier, *rest)

    @classmethod
    def _rebuilt(
        cls,
        classifier: keras.Model,
        config: Mapping[str, Any],
        parts: Parts,
        thresholds: dict[float, float] | None,
    ) -> Self:
        """Makes the detector that these were taken from, of the same classifier."""
        detector = cls._from_config(classifier, config)
        if parts:
            detector._restore(parts)
        detector._thresholds = thresholds
        return detector

    def _config(self) -> dict[str, Any]:
        """Returns what the constructor takes beside the classifier, as JSON has it."""
        return {"output": self.output, "bounds": self.bounds}

    @classmethod
    def _from_config(cls, classifier: keras.Model, config: Mapping[str, Any]) -> Self:
        """Makes the detector of a `_config`, without what is learnt."""
        return cls(classifier, **config)

    def _parts(self) -> Parts:
        """Returns what was learnt, by file: `.keras` models, `.npy` arrays.

        Raises a `RuntimeError` where it is to be learnt first.
        """
        return {}

    def _restore(self, parts: Parts) -> None:
        """Takes back what `_parts` returned."""

    @property
    def _shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return cast(tuple[int, ...], image_shape(self.classifier.input_shape[1:]))

    def _standard(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images as `standard_form` has them: of `_shape`, from 0 to 1."""
        return tf.reshape(to_unit(images, self.bounds), (-1, *self._shape))

    def _check_preset(
        self, preset: str, shapes: Mapping[str, tuple[int, ...] | None]
    ) -> None:
        """Refuses a preset that is unknown, or for images of another shape."""
        if preset not in shapes:
            raise ValueError(
                f"Invalid value for argument `preset`. Expected one of {list(shapes)}. "
                f"Received: preset={preset!r}"
            )
        if (wanted := shapes[preset]) not in (None, self._shape):
            raise ValueError(
                f"Invalid value for argument `preset`. Expected one for images of the "
                f"shape {self._shape}. Received: preset={preset!r}, which is for "
                f"{wanted}"
            )

    def _check(self, images: npt.ArrayLike, *, name: str = "images") -> FloatArray:
        """Returns images as float32, or says what is wrong with them."""
        shape = self.classifier.input_shape[1:]
        return check_images(images, shape, bounds=self.bounds, name=name)

    @functools.cached_property
    def _compiled(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """`tf_score` for any batch size; to be deleted where the score changes."""
        spec = tf.TensorSpec((None, *self.classifier.input_shape[1:]), tf.float32)
        made = tf.function(self.tf_score, input_signature=[spec], autograph=False)
        with TRACING:
            made.get_concrete_function()
        return made


def _number(value: object) -> float:
    if not is_number(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)  # type: ignore[arg-type]


def _read_part(path: Path, expected: str) -> keras.Model | npt.NDArray[Any]:
    """Reads a file of a detector, unless it is not the one that was written."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(f"{path} is damaged, or a file of another detector.")
    if path.suffix == ".keras":
        return keras.saving.load_model(path, compile=False)
    return np.load(io.BytesIO(content), allow_pickle=False)


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
