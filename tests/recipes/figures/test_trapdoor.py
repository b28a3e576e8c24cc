from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from figures.gradients import gradient, scores_of, soft_label_loss
from figures.trapdoor import (
    Counterexample,
    Detect,
    fit_analyzer,
    make_counterexample,
)

from keras_traps._checks import FloatArray
from keras_traps.attractors.thresholds import set_thresholds
from keras_traps.datasets import Dataset
from keras_traps.models.inference import predict
from tests.attractors.conftest import least_squares_classifier

AMPLITUDE = 0.8

Make = Callable[..., Counterexample]


@pytest.fixture(scope="module")
def make(linear_digits: keras.Model, digits_train: Dataset) -> Make:
    def made(
        classifier: keras.Model = linear_digits, output: str = "logits", seed: int = 0
    ) -> Counterexample:
        return make_counterexample(
            classifier,
            digits_train.images,
            output=output,  # type: ignore[arg-type]
            amplitude=AMPLITUDE,
            seed=seed,
        )

    return made


@pytest.fixture(scope="module")
def subject(make: Make) -> Counterexample:
    return make()


@pytest.fixture(scope="module")
def detect(subject: Counterexample, digits_train: Dataset) -> Detect:
    return fit_analyzer(subject, digits_train.images)


def parts(subject: Counterexample, images: FloatArray) -> list[FloatArray]:
    """W, D, and the inner products."""
    return [
        predict(model, images)
        for model in (subject.decoder, subject.detector, subject.correlations)
    ]


def test_the_model_is_equation_1(
    subject: Counterexample, linear_digits: keras.Model, digits_train: Dataset
) -> None:
    mixed = subject.plant(digits_train.images[:60], np.arange(60) % 10)
    # Images between clean and trapdoored, so that D is between 0 and 1 on some.
    shares = np.linspace(0, 1, 60, dtype=np.float32).reshape(60, 1, 1, 1)
    images = shares * mixed + (1 - shares) * digits_train.images[:60]
    w, d, _ = parts(subject, images)
    c = predict(linear_digits, images)
    assert ((d > 0.01) & (d < 0.99)).any()
    np.testing.assert_allclose(
        predict(subject.model, images), d * w + (1 - d) * c, atol=1e-4
    )
    np.testing.assert_allclose(predict(subject.n1, images), d * w, atol=1e-5)
    np.testing.assert_allclose(predict(subject.n2, images), (1 - d) * c, atol=1e-4)


def test_it_meets_the_goals_of_trapdoor_training(
    subject: Counterexample, linear_digits: keras.Model, digits_test: Dataset
) -> None:
    images, labels = digits_test.images, digits_test.labels
    clean, alone = (
        predict(model, images).argmax(axis=1)
        for model in (subject.model, linear_digits)
    )
    assert (clean == alone).mean() > 0.99
    goals = (labels + 1 + np.arange(len(labels)) % 9) % 10
    planted = predict(subject.model, subject.plant(images, goals)).argmax(axis=1)
    assert (planted == goals).mean() > 0.98


def test_on_clean_images_its_gradient_is_the_classifiers(
    subject: Counterexample, linear_digits: keras.Model, digits_test: Dataset
) -> None:
    images, labels = digits_test.images[:200], digits_test.labels[:200]
    found = [
        gradient(
            soft_label_loss(scores_of(model, "logits")),
            tf.constant(images),
            tf.constant(labels),
        ).numpy()
        for model in (subject.model, linear_digits)
    ]
    apart = np.abs(found[0] - found[1]).sum(axis=(1, 2, 3))
    assert np.median(apart / np.abs(found[1]).sum(axis=(1, 2, 3))) < 1e-4


def test_correlations_are_inner_products_with_the_trapdoors(
    subject: Counterexample, digits_test: Dataset
) -> None:
    images = 0.5 * digits_test.images[:30]
    signs = np.sign(subject.trapdoors).reshape(10, 64)
    np.testing.assert_array_equal(np.abs(subject.trapdoors), np.float32(AMPLITUDE))
    pixels = images.reshape(30, 64)
    expected = (pixels - pixels.mean(axis=1, keepdims=True)) @ signs.T / 64
    w, _, found = parts(subject, images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(w).max() < 10
    # Brightness alone changes none.
    brighter = predict(subject.correlations, images + np.float32(0.4))
    np.testing.assert_allclose(brighter, found, atol=1e-6)


def test_it_computes_in_float32_whatever_the_policy(
    make: Make, subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        mixed = make(least_squares_classifier(digits_train, "linear"))
    finally:
        keras.config.set_dtype_policy(before)
    for model in (mixed.model, mixed.n1, mixed.n2, mixed.detector, mixed.decoder):
        assert model.output.dtype == "float32"
    images = digits_test.images[:60]
    for found, expected in zip(
        parts(mixed, images), parts(subject, images), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_an_amplitude_that_nobody_can_detect_is_refused(
    linear_digits: keras.Model, digits_train: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"argument `amplitude`.*amplitude=0\.1"):
        make_counterexample(
            linear_digits, digits_train.images, output="logits", amplitude=0.1
        )


@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_clean_images_are_flagged_at_the_rate(
    subject: Counterexample, digits_train: Dataset, fpr: float
) -> None:
    half, other = digits_train.images[::2], digits_train.images[1::2]
    detect = fit_analyzer(subject, half, fpr=fpr)
    own, new = detect(half), detect(other)
    # Three standard errors, of the rate and of the threshold.
    error = 3 * np.sqrt(2 * fpr * (1 - fpr) / len(half))
    for way in ("by_decoder", "by_signature"):
        assert fpr - 0.01 < own[way].mean() <= fpr
        assert new[way].mean() == pytest.approx(fpr, abs=error)


def test_images_with_a_trapdoor_are_flagged_every_way_and_noise_is_not_by_d(
    subject: Counterexample, detect: Detect, digits_test: Dataset
) -> None:
    images = digits_test.images
    found = detect(subject.plant(images, (digits_test.labels + 3) % 10))
    assert list(found) == ["by_decoder", "by_signature", "by_detector"]
    assert all(flags.mean() > 0.95 for flags in found.values())
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, images.shape)
    noisy = np.clip(images + noise.astype(np.float32), 0, 1)
    assert detect(noisy)["by_detector"].mean() < 0.01


def test_the_decoders_conditions_are_c1_to_c3(
    subject: Counterexample, detect: Detect, digits_train: Dataset, digits_test: Dataset
) -> None:
    t = set_thresholds(predict(subject.decoder, digits_train.images), 0.05)
    w = predict(subject.decoder, digits_test.images).astype(np.float64)
    expected = (w.max(1) > t.upper) | (w.min(1) < t.lower) | (w.std(1) > t.deviation)
    found = detect(digits_test.images)["by_decoder"]
    assert (found == expected).mean() > 0.999


def test_a_black_image_has_a_verdict(detect: Detect) -> None:
    black = np.zeros((1, 8, 8, 1), np.float32)
    assert not detect(black)["by_signature"][0]
