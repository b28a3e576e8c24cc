"""Tells attacked inputs from clean ones by what the decoder and C say of them."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import (
    Bounds,
    FloatArray,
    IntArray,
    check_count,
    check_images,
    check_range_is_used,
)
from keras_traps._files import write_atomically
from keras_traps.attractors.injection import decoder_of, evidence_model
from keras_traps.attractors.thresholds import Thresholds, set_thresholds
from keras_traps.image_sources import Images, read_images
from keras_traps.models.inference import batch_size_for

_FORMAT = "keras_traps.forensic_analyzer.v2"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the analyzer says of a batch.

    Args:
        is_adversarial: `(batch,)`, bool.
        score: `(batch,)`, float32, higher for more adversarial.
        fired: `(batch, 4)`, bool: which of C1 to C4 hold.
        recovered: `(batch,)`, int64: the class that the input had before the attack,
            see `keras_traps.ops.judge`; -1 where the input is not flagged.
    """

    is_adversarial: npt.NDArray[np.bool_]
    score: FloatArray
    fired: npt.NDArray[np.bool_]
    recovered: IntArray


class ForensicAnalyzer:
    """Detects attacked inputs and recovers their class.

    An input is adversarial if its largest correlation is above U (C1), its smallest
    below L (C2), or the correlations' standard deviation above sigma_0 (C3): then an
    attack followed the slope of W. It also is if the best logit of C leads the next by
    unusually little (C4): so it does where an attack without a slope has just crossed
    the border of C, and on images that C is unsure of.

    `fit` sets the four limits jointly: each statistic is measured in standard
    deviations from its mean on clean images, that of C4 being the logarithm of the
    lead; the score of an image is the largest of the four, and the limits are where the
    score reaches the quantile that the false-positive rate asks for.

    Args:
        trapped: A trapped model from `inject`.

    Raises:
        ValueError: If the model has no QIM decoder.

    Example:
    >>> analyzer = keras_traps.ForensicAnalyzer(trapped).fit(images, fpr=0.05)
    >>> analyzer.detect(suspects).is_adversarial

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Sections V-C and V-D.
    """

    def __init__(self, trapped: keras.Model) -> None:
        self.trapped = trapped
        self.decoder = decoder_of(trapped)
        self._thresholds: Thresholds | None = None
        self._model = model = evidence_model(trapped)
        # Not the model's own call: one trace serves every batch size.
        self._ask = tf.function(
            lambda images: model(images, training=False),
            reduce_retracing=True,
            autograph=False,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # What is compiled cannot be sent to another process.
        return type(self), (self.trapped,), {"_thresholds": self._thresholds}

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that `fit` or `load` set.

        Raises:
            RuntimeError: If neither was called.
        """
        if self._thresholds is None:
            raise RuntimeError("The analyzer has no thresholds yet: call `fit` first.")
        return self._thresholds

    @property
    def fprs(self) -> tuple[float, ...]:
        """The false-positive rate that the thresholds are for, as the only one."""
        return (self.thresholds.fpr,)

    def threshold(self, fpr: float | None = None) -> float:
        """Returns the score above which an input is adversarial.

        Args:
            fpr: The rate that the analyzer was fitted for, or `None`, which is that
                one. Defaults to `None`.

        Returns:
            The score at the thresholds.

        Raises:
            ValueError: If the analyzer was fitted for another rate.
            RuntimeError: If the analyzer was not fitted.
        """
        if fpr not in (None, *self.fprs):
            raise ValueError(
                "Invalid value for argument `fpr`. Expected "
                f"{self.thresholds.fpr:g}, which the analyzer was fitted for. "
                f"Received: fpr={fpr!r}"
            )
        return self.thresholds.score

    @property
    def bounds(self) -> Bounds:
        """The least and the largest value of a pixel."""
        return self.decoder.bounds

    def fit(
        self, images: Images, *, fpr: float = 0.05, batch_size: int | None = None
    ) -> Self:
        """Sets the limits for a false-positive rate.

        Args:
            images: Clean images that the rate is to hold for, pixels in `bounds`, best
                ones that the classifier was not trained on, of which it is surer: an
                array `(images, ...)`, a `tf.data.Dataset`, or an iterable of batches;
                labels that come with them are not looked at.
            fpr: Share of clean images that may be flagged. Defaults to `0.05`.
            batch_size: How many images at once. Defaults to `None`: 1024, fewer where
                images are large.

        Returns:
            The analyzer itself.

        Raises:
            TypeError: If images are integers and the bounds are not.
            ValueError: If a pixel is not in `bounds`, the images use less than a
                fiftieth of that range, `fpr` is not between 0 and 1, there are too few
                images for it, where the message says how many are needed, or
                `batch_size` is not an integer of at least 1.
        """
        pixels, _ = read_images(images, rank=len(self.decoder.image_shape))
        check_range_is_used(
            check_images(pixels, self.decoder.image_shape, bounds=self.bounds),
            self.bounds,
        )
        evidence = self.evidence(pixels, batch_size=batch_size)
        return self.fit_evidence(evidence, fpr=fpr)

    def fit_evidence(self, evidence: FloatArray, *, fpr: float = 0.05) -> Self:
        """Does what `fit` does, from evidence that is already there.

        Args:
            evidence: `(images, 2, num_classes)`, of clean images.
            fpr: Share of clean images that may be flagged. Defaults to `0.05`.

        Returns:
            The analyzer itself.

        Raises:
            ValueError: As `fit`.
        """
        self._thresholds = set_thresholds(evidence, fpr)
        return self

    def with_thresholds(self, thresholds: Thresholds) -> Self:
        """Takes thresholds that another analyzer of this decoder was fitted to.

        Args:
            thresholds: The thresholds.

        Returns:
            The analyzer itself.
        """
        self._thresholds = thresholds
        return self

    def evidence(
        self, images: npt.ArrayLike, *, batch_size: int | None = None
    ) -> FloatArray:
        """Returns W(x) and C's logits, all that a verdict depends on.

        Args:
            images: `(batch, ...)`, pixels in `bounds`.
            batch_size: How many images at once. Defaults to `None`: 1024, fewer where
                images are large.

        Returns:
            `(batch, 2, num_classes)`, float32; the second row logarithms of
            probabilities where C returns these.

        Raises:
            TypeError: If images are integers and the bounds are not.
            ValueError: If a pixel is not in `bounds`, the shape is not the decoder's,
                or `batch_size` is not an integer of at least 1.
        """
        shape = self.decoder.image_shape
        if batch_size is None:
            batch_size = batch_size_for(shape, most=1024)
        check_count("batch_size", batch_size)
        array = check_images(images, shape, bounds=self.bounds)
        return np.concatenate(
            [
                self._ask(tf.constant(array[start : start + batch_size])).numpy()
                for start in range(0, len(array), batch_size)
            ]
        )

    def score(self, images: npt.ArrayLike) -> FloatArray:
        """Returns how far from clean each image is.

        Args:
            images: `(batch, ...)`, pixels in `bounds`.

        Returns:
            `(batch,)`, float32, in standard deviations of clean images; higher for more
            adversarial. It does not depend on `fpr`.

        Raises:
            RuntimeError: If the analyzer was not fitted.
        """
        return self.judge(self.evidence(images)).score

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        """Returns what `score` does, with its gradient; for attacks that follow it.

        Args:
            images: `(batch, ...)`, float32, pixels in `bounds`.

        Returns:
            `(batch,)`, float32.

        Raises:
            RuntimeError: If the analyzer was not fitted.
        """
        return self.thresholds.tf_score(self._model(images, training=False))

    def detect(self, images: npt.ArrayLike) -> Verdict:
        """Says which images are adversarial, and by which condition.

        Args:
            images: `(batch, ...)`, pixels in `bounds`.

        Returns:
            The verdict.

        Raises:
            RuntimeError: If the analyzer was not fitted.
        """
        return self.judge(self.evidence(images))

    def judge(self, evidence: FloatArray) -> Verdict:
        """Does what `detect` does, from evidence that is already there.

        Args:
            evidence: `(batch, 2, num_classes)`, what `evidence` returned.

        Returns:
            The verdict.

        Raises:
            RuntimeError: If the analyzer was not fitted.
        """
        found = self.thresholds.judge(evidence)
        return Verdict(
            is_adversarial=found.flagged.numpy(),
            score=found.score.numpy(),
            fired=found.fired.numpy(),
            recovered=found.recovered.numpy(),
        )

    def save(self, path: str | Path) -> None:
        """Writes the thresholds and the decoder's fingerprint to a JSON file.

        Args:
            path: Where to; a file there is replaced in one step.

        Raises:
            RuntimeError: If the analyzer was not fitted.
            OSError: If the file cannot be written.
        """
        content = {
            "format": _FORMAT,
            "decoder": self.decoder.fingerprint,
            "thresholds": dataclasses.asdict(self.thresholds),
        }
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(Path(path), text.encode())

    @classmethod
    def load(cls, path: str | Path, trapped: keras.Model) -> Self:
        """Reads what `save` wrote.

        Args:
            path: The file.
            trapped: The trapped model that the analyzer was fitted for.

        Returns:
            A fitted analyzer.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If the file is damaged, so if a threshold is not a finite
                number, or was fitted for another decoder.
        """
        analyzer = cls(trapped)
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise KeyError(content["format"])
            thresholds = Thresholds.from_dict(content["thresholds"])
            fingerprint = content["decoder"]
            if not isinstance(fingerprint, str):
                raise ValueError(f"decoder={fingerprint!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a saved analyzer: {error!r}") from error
        if fingerprint != analyzer.decoder.fingerprint:
            raise ValueError(
                f"The analyzer in {path} was fitted for another decoder: expected "
                f"fingerprint {analyzer.decoder.fingerprint[:12]}, received "
                f"{fingerprint[:12]}. Fit a new one for this model."
            )
        return analyzer.with_thresholds(thresholds)
