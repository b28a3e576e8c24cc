import numpy as np
import pytest

from keras_traps.attractors.counterexample import Counterexample, make_counterexample
from keras_traps.attractors.thresholds import set_thresholds
from keras_traps.attractors.trapdoor_detection import TrapdoorAnalyzer
from keras_traps.datasets import Dataset
from keras_traps.models.inference import predict
from tests.attractors.conftest import least_squares_classifier

WAYS = ("by_decoder", "by_signature", "by_detector")


@pytest.fixture(scope="module")
def subject(digits_train: Dataset) -> Counterexample:
    return make_counterexample(
        least_squares_classifier(digits_train, "linear"),
        digits_train.images,
        output="logits",
        amplitude=0.8,
    )


@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_clean_images_are_flagged_at_the_rate(
    subject: Counterexample, digits_train: Dataset, fpr: float
) -> None:
    half, other = digits_train.images[::2], digits_train.images[1::2]
    analyzer = TrapdoorAnalyzer.fit(subject, half, fpr=fpr)
    own, new = analyzer.detect(half), analyzer.detect(other)
    # Three standard errors, of the rate and of the threshold.
    error = 3 * np.sqrt(2 * fpr * (1 - fpr) / len(half))
    for way in ("by_decoder", "by_signature"):
        assert fpr - 0.01 < getattr(own, way).mean() <= fpr
        assert getattr(new, way).mean() == pytest.approx(fpr, abs=error)


def test_images_with_a_trapdoor_are_flagged_every_way(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    analyzer = TrapdoorAnalyzer.fit(subject, digits_train.images)
    goals = (digits_test.labels + 3) % 10
    verdict = analyzer.detect(subject.plant(digits_test.images, goals))
    for way in WAYS:
        assert getattr(verdict, way).mean() > 0.95


def test_noise_without_a_trapdoor_is_not_seen_by_d(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    analyzer = TrapdoorAnalyzer.fit(subject, digits_train.images)
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, digits_test.images.shape)
    noisy = np.clip(digits_test.images + noise.astype(np.float32), 0, 1)
    assert analyzer.detect(noisy).by_detector.mean() < 0.01


def test_the_decoders_conditions_are_those_of_the_attractors(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    analyzer = TrapdoorAnalyzer.fit(subject, digits_train.images)
    t = set_thresholds(predict(subject.decoder, digits_train.images), 0.05)
    assert analyzer.thresholds == t
    w = predict(subject.decoder, digits_test.images).astype(np.float64)
    expected = (w.max(1) > t.upper) | (w.min(1) < t.lower) | (w.std(1) > t.deviation)
    found = analyzer.detect(digits_test.images).by_decoder
    assert (found == expected).mean() > 0.999


def test_a_black_image_has_a_verdict(
    subject: Counterexample, digits_train: Dataset
) -> None:
    analyzer = TrapdoorAnalyzer.fit(subject, digits_train.images)
    verdict = analyzer.detect(np.zeros((1, 8, 8, 1), np.float32))
    assert [getattr(verdict, way).shape for way in WAYS] == [(1,)] * 3
    assert not verdict.by_signature[0]


def test_every_class_needs_an_image_for_its_signature(
    subject: Counterexample, digits_train: Dataset
) -> None:
    images = digits_train.images
    with pytest.raises(ValueError, match=r"at least 10 clean images.*9 images"):
        TrapdoorAnalyzer.fit(subject, images[:9], fpr=0.2)
    analyzer = TrapdoorAnalyzer.fit(subject, images[:10], fpr=0.2)
    np.testing.assert_allclose(np.linalg.norm(analyzer.signatures, axis=1), 1, 1e-5)


def test_wrong_arguments_are_refused(
    subject: Counterexample, digits_train: Dataset
) -> None:
    with pytest.raises(ValueError, match="argument `fpr`"):
        TrapdoorAnalyzer.fit(subject, digits_train.images, fpr=0.0)
    with pytest.raises(ValueError, match="argument `images`"):
        TrapdoorAnalyzer.fit(subject, digits_train.images[:18])
    analyzer = TrapdoorAnalyzer.fit(subject, digits_train.images)
    with pytest.raises(TypeError, match="argument `images`"):
        analyzer.detect(np.ones((1, 8, 8, 1), int))
    with pytest.raises(ValueError, match="argument `images`"):
        analyzer.detect(np.ones((1, 7, 8, 1), np.float32))
