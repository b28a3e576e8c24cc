"""Tells attacked inputs from clean ones by the decoder's correlations alone."""

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
from keras_traps.attractors.injection import decoder_of
from keras_traps.attractors.thresholds import Thresholds, set_thresholds
from keras_traps.image_sources import Images, read_images
from keras_traps.layers import QIMDecoder
from keras_traps.models.inference import batch_size_for
from keras_traps.ops.forensics import recover

_FORMAT = "keras_traps.forensic_analyzer.v1"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the analyzer says of a batch.

    Args:
        is_adversarial: `(batch,)`, bool.
        score: `(batch,)`, float32, higher for more adversarial.
        fired: `(batch, 3)`, bool: which of C1, C2, C3 hold.
        recovered: `(batch,)`, int64: the class that the input had before the attack,
            that of lowest correlation; -1 where the input is not flagged.
    """

    is_adversarial: npt.NDArray[np.bool_]
    score: FloatArray
    fired: npt.NDArray[np.bool_]
    recovered: IntArray


class ForensicAnalyzer:
    """Detects attacked inputs and recovers their class.

    An input is adversarial if its largest correlation is above U (C1), its smallest
    below L (C2), or the correlations' standard deviation above sigma_0 (C3). `fit`
    sets the three jointly: each statistic is measured in standard deviations from its
    mean on clean images, the score of an image is the largest of the three, and the
    thresholds are where the score reaches the quantile that the false-positive rate
    asks for.

    Args:
        trapped: A trapped model from `inject`, or its decoder.

    Raises:
        ValueError: If the model has no QIM decoder, or it is not built.

    Example:
    >>> analyzer = keras_traps.ForensicAnalyzer(trapped).fit(images, fpr=0.05)
    >>> analyzer.detect(suspects).is_adversarial

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Sections V-C and V-D.
    """

    def __init__(self, trapped: keras.Model | QIMDecoder) -> None:
        is_decoder = isinstance(trapped, QIMDecoder)
        self.decoder = trapped if is_decoder else decoder_of(trapped)
        if not self.decoder.built:
            raise ValueError(
                "Invalid value for argument `trapped`. Expected a decoder that is "
                "built, for messages are drawn for images of one size. "
                f"Received: {self.decoder.name!r}, which is not built"
            )
        self._thresholds: Thresholds | None = None
        # Not the layer's own call: one trace serves every batch size.
        self._correlate = tf.function(
            self.decoder, reduce_retracing=True, autograph=False
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # What is compiled cannot be sent to another process.
        return type(self), (self.decoder,), {"_thresholds": self._thresholds}

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
    def bounds(self) -> Bounds:
        """The least and the largest value of a pixel."""
        return self.decoder.bounds

    def fit(
        self, images: Images, *, fpr: float = 0.05, batch_size: int | None = None
    ) -> Self:
        """Sets U, L and sigma_0 for a false-positive rate.

        Args:
            images: Clean images that the rate is to hold for, pixels in `bounds`: an
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
        return self.fit_correlations(
            self.correlations(pixels, batch_size=batch_size), fpr=fpr
        )

    def fit_correlations(self, correlations: FloatArray, *, fpr: float = 0.05) -> Self:
        """Does what `fit` does, from correlations that are already there.

        Args:
            correlations: `(images, num_classes)`, W on clean images.
            fpr: Share of clean images that may be flagged. Defaults to `0.05`.

        Returns:
            The analyzer itself.

        Raises:
            ValueError: As `fit`.
        """
        self._thresholds = set_thresholds(correlations, fpr)
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

    def correlations(
        self, images: npt.ArrayLike, *, batch_size: int | None = None
    ) -> FloatArray:
        """Returns W(x).

        Args:
            images: `(batch, ...)`, pixels in `bounds`.
            batch_size: How many images at once. Defaults to `None`: 1024, fewer where
                images are large.

        Returns:
            `(batch, num_classes)`, float32.

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
        check_range_is_used(array, self.bounds)
        return np.concatenate(
            [
                self._correlate(tf.constant(array[start : start + batch_size])).numpy()
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
        return self.judge(self.correlations(images)).score

    def detect(self, images: npt.ArrayLike) -> Verdict:
        """Says which images are adversarial, and by which condition.

        Args:
            images: `(batch, ...)`, pixels in `bounds`.

        Returns:
            The verdict.

        Raises:
            RuntimeError: If the analyzer was not fitted.
        """
        return self.judge(self.correlations(images))

    def recover(self, images: npt.ArrayLike) -> IntArray:
        """Returns the class of lowest correlation: the one an attack moved away from.

        Args:
            images: `(batch, ...)`, pixels in `bounds`: images that are
                adversarial. On clean ones the answer means nothing.

        Returns:
            `(batch,)`, int64.
        """
        return recover(self.correlations(images)).numpy()

    def judge(self, correlations: FloatArray) -> Verdict:
        """Does what `detect` does, from correlations that are already there.

        Args:
            correlations: `(batch, num_classes)`, W(x).

        Returns:
            The verdict.

        Raises:
            RuntimeError: If the analyzer was not fitted.
        """
        found = self.thresholds.judge(correlations)
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
    def load(cls, path: str | Path, trapped: keras.Model | QIMDecoder) -> Self:
        """Reads what `save` wrote.

        Args:
            path: The file.
            trapped: The trapped model that the analyzer was fitted for, or its decoder.

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
