import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps import ForensicAnalyzer
from keras_traps._checks import FloatArray
from keras_traps.detectors import (
    AtRates,
    Detected,
    Detector,
    ScoreDetector,
    check_detector,
)

IMAGES = np.random.default_rng(0).random((7, 2, 2, 1)).astype(np.float32)


class Mean(ScoreDetector):
    """The mean pixel."""

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(images, axis=(1, 2, 3))

    def score(self, images: npt.ArrayLike) -> FloatArray:
        return np.asarray(images, np.float32).mean(axis=(1, 2, 3))


def levels(count: int) -> FloatArray:
    """Images of which each has a mean of its own, from 1 to `count`."""
    means = np.random.default_rng(1).permutation(count) + 1
    return np.tile(means.reshape(-1, 1, 1, 1), (1, 2, 2, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "fpr", "rank"), [(19, 0.05, 19), (20, 0.05, 20), (99, 0.05, 95)]
)
def test_a_threshold_is_the_score_that_a_new_image_exceeds_at_the_rate(
    count: int, fpr: float, rank: int
) -> None:
    fitted = Mean().fit_threshold(levels(count), fpr)
    assert fitted.threshold() == rank
    # Of count + 1 equally likely places of a new one those above it.
    assert (count + 1 - rank) / (count + 1) <= fpr
    assert (count + 2 - rank) / (count + 1) > fpr
    found = fitted.detect(levels(count))
    assert found.is_adversarial.sum() == count - rank
    np.testing.assert_array_equal(found.score, fitted.score(levels(count)))


def test_several_rates_have_thresholds_of_their_own() -> None:
    fitted = Mean().fit_threshold(levels(999), 0.005).fit_threshold(levels(999), 0.05)
    assert fitted.fprs == (0.05, 0.005)
    assert fitted.threshold() == fitted.threshold(0.05) == 950
    assert fitted.threshold(0.005) == 995
    # That of another detector is not touched.
    assert Mean().fprs == ()


def test_the_score_of_another_detector_gets_thresholds_of_several_rates() -> None:
    one = Mean().fit_threshold(levels(999), 0.5)
    both = AtRates(one, levels(999), [0.05, 0.005])
    assert both.fprs == (0.05, 0.005)
    assert [both.threshold(fpr) for fpr in both.fprs] == [950, 995]
    assert one.fprs == (0.5,)
    check_detector(AtRates(one, IMAGES, [0.4]), IMAGES)


def test_what_cannot_set_a_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`images`. Expected at least 19 clean"):
        Mean().fit_threshold(levels(18))
    with pytest.raises(ValueError, match="`fpr`"):
        Mean().fit_threshold(levels(30), 1.0)
    with pytest.raises(ValueError, match="finite scores"):
        Mean().fit_threshold(np.full((30, 2, 2, 1), np.nan, np.float32))
    with pytest.raises(RuntimeError, match="Mean has no threshold yet"):
        Mean().detect(IMAGES)
    fitted = Mean().fit_threshold(levels(19))
    with pytest.raises(ValueError, match=r"`fpr`. Expected one of \(0.05,\)"):
        fitted.threshold(0.01)


class Shifted(Mean):
    """A detector with one fault."""

    def __init__(self, fault: str) -> None:
        self._thresholds = {0.05: 0.5, 0.005: 0.4 if fault == "order" else 0.6}
        self.fault = fault

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        if self.fault == "steep":
            nothing = tf.sqrt(images - tf.stop_gradient(images))
            return tf.reduce_mean(images + nothing, axis=(1, 2, 3))
        if self.fault == "flat":
            return tf.stop_gradient(super().tf_score(images))
        return super().tf_score(images) + (self.fault == "other")

    def score(self, images: npt.ArrayLike) -> FloatArray:
        found = super().score(images)
        if self.fault == "shape":
            return found[:, None]
        if self.fault == "batch":
            return found - found.mean()
        if self.fault == "number":
            return np.where(found > 0.5, np.nan, found)
        return found.astype(np.float64) if self.fault == "dtype" else found

    def detect(self, images: npt.ArrayLike) -> Detected:
        found = super().detect(images)
        flags = found.is_adversarial
        return Detected(~flags if self.fault == "flags" else flags, found.score)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("order", "higher thresholds for lower rates"),
        ("shape", "one score for each image"),
        ("dtype", "scores of float32"),
        ("number", "finite scores"),
        ("batch", "the same scores in any batch"),
        ("flags", "`detect` to flag"),
        ("other", "the numbers of `score` from `tf_score`"),
        ("flat", "a `tf_score` with a gradient"),
        ("steep", "a finite gradient of `tf_score`"),
    ],
)
def test_each_broken_promise_is_told(fault: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"`detector`. Expected {told}.*Shifted"):
        check_detector(Shifted(fault), IMAGES)


def test_detectors_that_keep_their_promises_pass() -> None:
    check_detector(Shifted(""), IMAGES)
    check_detector(Mean().fit_threshold(IMAGES, 0.2), IMAGES)
    assert isinstance(Mean(), Detector)
    strange: Any = object()
    with pytest.raises(TypeError, match=r"`detector`. .*Received: object"):
        check_detector(strange, IMAGES)


def test_the_analyzer_is_a_detector(digits_defence: Any, digits_test: Any) -> None:
    for fpr, analyzer in digits_defence.analyzers.items():
        assert isinstance(analyzer, ForensicAnalyzer)
        check_detector(analyzer, digits_test.images[:20])
        assert analyzer.fprs == (fpr,)
        assert analyzer.threshold(fpr) == analyzer.threshold()
        with pytest.raises(ValueError, match=f"`fpr`. Expected {fpr:g}, which"):
            analyzer.threshold(fpr / 2)
    assert math.isfinite(digits_defence.main_analyzer.threshold())
