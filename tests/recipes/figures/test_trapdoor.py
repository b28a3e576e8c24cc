import keras
import numpy as np
import pytest
from figures.trapdoor import Counterexample, fit_analyzer, make_counterexample

from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from keras_traps.models.inference import predict
from tests.attractors.conftest import least_squares_classifier

AMPLITUDE = 0.8


@pytest.fixture(scope="module")
def subject(defence: Defence, digits_train: Dataset) -> Counterexample:
    return make(defence.classifier, digits_train)


def make(
    classifier: keras.Model, data: Dataset, amplitude: float = AMPLITUDE
) -> Counterexample:
    return make_counterexample(
        classifier, data.images, output="logits", amplitude=amplitude
    )


def parts(subject: Counterexample, images: FloatArray) -> list[FloatArray]:
    """W, D, and the inner products."""
    return [
        predict(model, images)
        for model in (subject.decoder, subject.detector, subject.correlations)
    ]


def test_the_model_is_equation_1(
    subject: Counterexample, defence: Defence, digits_train: Dataset
) -> None:
    mixed = subject.plant(digits_train.images[:60], np.arange(60) % 10)
    # Images between clean and trapdoored, so that D is between 0 and 1 on some.
    shares = np.linspace(0, 1, 60, dtype=np.float32).reshape(60, 1, 1, 1)
    images = shares * mixed + (1 - shares) * digits_train.images[:60]
    w, d, _ = parts(subject, images)
    c = predict(defence.classifier, images)
    assert ((d > 0.01) & (d < 0.99)).any()
    n1, n2 = (predict(model, images) for model in (subject.n1, subject.n2))
    np.testing.assert_allclose(n1, d * w, atol=1e-5)
    np.testing.assert_allclose(n2, (1 - d) * c, atol=1e-4)
    np.testing.assert_allclose(predict(subject.model, images), n1 + n2, atol=1e-4)


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


def test_it_computes_in_float32_whatever_the_policy(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        classifier = least_squares_classifier(digits_train, "linear")
        mixed = make(classifier, digits_train)
    finally:
        keras.config.set_dtype_policy(before)
    for model in (mixed.model, mixed.n1, mixed.n2, mixed.detector, mixed.decoder):
        assert model.output.dtype == "float32"
    found, expected = (parts(of, digits_test.images[:60]) for of in (mixed, subject))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_an_amplitude_that_nobody_can_detect_is_refused(
    defence: Defence, digits_train: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"argument `amplitude`.*amplitude=0\.1"):
        make(defence.classifier, digits_train, 0.1)


def test_trapdoors_are_flagged_every_way_and_clean_images_at_the_rate(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    half, other, fpr = digits_train.images[::2], digits_train.images[1::2], 0.2
    detect = fit_analyzer(subject, half, fpr=fpr)
    own, new = detect(half), detect(other)
    # Three standard errors, of the rate and of the threshold.
    error = 3 * np.sqrt(2 * fpr * (1 - fpr) / len(half))
    for way in ("by_decoder", "by_signature"):
        assert fpr - 0.01 < own[way].mean() <= fpr
        assert new[way].mean() == pytest.approx(fpr, abs=error)
    images = digits_test.images
    found = detect(subject.plant(images, (digits_test.labels + 3) % 10))
    assert all(flags.mean() > 0.95 for flags in found.values())
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, images.shape)
    noisy = np.clip(images + noise.astype(np.float32), 0, 1)
    assert detect(noisy)["by_detector"].mean() < 0.01
    # A black image, which has no correlations, has a verdict.
    assert not detect(np.zeros((1, 8, 8, 1), np.float32))["by_signature"][0]
