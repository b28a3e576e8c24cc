import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps import Calibration, ForensicAnalyzer, inject, integrate
from keras_traps._checks import FloatArray
from keras_traps.attacks import create
from keras_traps.attractors import Verdict
from keras_traps.datasets import Dataset
from keras_traps.models.inference import predict
from keras_traps.ops import Key
from tests.attractors.conftest import across_the_border, least_squares_classifier


@pytest.fixture(scope="module")
def plain(digits_train: Dataset) -> keras.Model:
    return least_squares_classifier(digits_train, "linear")


@pytest.fixture(scope="module")
def trapped(plain: keras.Model, calibration: Calibration) -> keras.Model:
    return inject(plain, calibration.settings)


@pytest.fixture(scope="module")
def analyzer(trapped: keras.Model, digits_train: Dataset) -> ForensicAnalyzer:
    return ForensicAnalyzer(trapped).fit(digits_train.images, fpr=0.05)


@pytest.fixture(scope="module")
def attacked(trapped: keras.Model, digits_test: Dataset) -> FloatArray:
    attack = create("PGD", eps=0.3, eps_iter=0.05, nb_iter=10)
    images, labels = digits_test.images[:60], digits_test.labels[:60]
    return attack(trapped, images, labels, output="scores").images


@pytest.fixture(params=["clean", "attacked"])
def judged(
    request: pytest.FixtureRequest,
    analyzer: ForensicAnalyzer,
    calibration: Calibration,
    digits_test: Dataset,
    attacked: FloatArray,
) -> tuple[FloatArray, Verdict]:
    """Images that are no closer to a threshold than two graphs' rounding."""
    images = digits_test.images if request.param == "clean" else attacked
    score = analyzer.detect(images).score
    # Distances are rounded by 1e-6 of themselves, the score counts their spreads.
    rounding = 1e-5 * calibration.clean_mean / calibration.clean_spread
    clear = np.abs(score - analyzer.thresholds.score) > rounding
    assert clear.mean() > 0.98
    return images[clear], analyzer.detect(images[clear])


def test_images_are_answered_as_model_and_analyzer_do(
    trapped: keras.Model,
    analyzer: ForensicAnalyzer,
    judged: tuple[FloatArray, Verdict],
) -> None:
    images, verdict = judged
    flagged = verdict.is_adversarial
    assert flagged.mean() > 0
    expected = predict(trapped, images)
    answers = predict(integrate(trapped, analyzer), images)
    np.testing.assert_allclose(answers[~flagged], expected[~flagged], atol=1e-6)
    recovered = answers[flagged]
    assert (recovered.argmax(axis=1) == verdict.recovered[flagged]).all()
    np.testing.assert_allclose(recovered.sum(axis=1), 1, rtol=1e-5)
    # The answer that C4 alone gives is no slope of W.
    by_watermark = verdict.fired[flagged, :3].any(axis=1)
    assert ((recovered.max(axis=1) < 1) == by_watermark).all()

    labels = predict(integrate(trapped, analyzer, differentiable=False), images)
    np.testing.assert_allclose(labels[~flagged], expected[~flagged], atol=1e-6)
    np.testing.assert_array_equal(
        labels[flagged], np.eye(10)[verdict.recovered[flagged]]
    )


def test_an_image_on_the_border_of_c_gets_the_class_behind_it(
    trapped: keras.Model, analyzer: ForensicAnalyzer, digits_test: Dataset
) -> None:
    images, before, _ = across_the_border(trapped, analyzer, digits_test)
    alone = analyzer.detect(images).fired[:, :3].sum(axis=1) == 0
    assert alone.mean() > 0.5
    for differentiable in (True, False):
        model = integrate(trapped, analyzer, differentiable=differentiable)
        expected = np.eye(10)[before[alone]]
        np.testing.assert_array_equal(predict(model, images[alone]), expected)


def test_flagged_images_get_their_class_back(
    trapped: keras.Model,
    analyzer: ForensicAnalyzer,
    digits_test: Dataset,
    attacked: FloatArray,
) -> None:
    labels = digits_test.labels[:60]
    before = predict(trapped, attacked).argmax(axis=1) == labels
    after = predict(integrate(trapped, analyzer), attacked).argmax(axis=1) == labels
    assert after.sum() > before.sum()


def test_it_has_the_thresholds_and_the_layers_of_what_it_joins(
    trapped: keras.Model, analyzer: ForensicAnalyzer
) -> None:
    integrated = integrate(trapped, analyzer)
    assert integrated.input_shape == trapped.input_shape
    assert integrated.output_shape == trapped.output_shape
    assert integrated.get_layer("qim_decoder") is trapped.get_layer("qim_decoder")
    layer, limits = integrated.get_layer("detect_recover"), analyzer.thresholds
    assert (layer.upper, layer.lower) == (limits.upper, limits.lower)
    assert (layer.deviation, layer.lead) == (limits.deviation, limits.lead)
    assert layer.differentiable


def test_files_of_it_and_of_the_trapped_model_bring_it_back(
    trapped: keras.Model,
    analyzer: ForensicAnalyzer,
    attacked: FloatArray,
    tmp_path: Path,
) -> None:
    integrated = integrate(trapped, analyzer)
    expected = predict(integrated, attacked)
    integrated.save(tmp_path / "integrated.keras")
    loaded = keras.saving.load_model(tmp_path / "integrated.keras")
    np.testing.assert_allclose(predict(loaded, attacked), expected, atol=1e-6)
    trapped.save(tmp_path / "trapped.keras")
    again = integrate(keras.saving.load_model(tmp_path / "trapped.keras"), analyzer)
    np.testing.assert_allclose(predict(again, attacked), expected, atol=1e-6)


def test_what_does_not_belong_together_is_refused(
    plain: keras.Model,
    calibration: Calibration,
    trapped: keras.Model,
    analyzer: ForensicAnalyzer,
) -> None:
    other = inject(
        plain, dataclasses.replace(calibration.settings, key=Key.from_seed(1))
    )
    with pytest.raises(ValueError, match=r"argument `analyzer`.*fingerprint"):
        integrate(other, analyzer)
    with pytest.raises(RuntimeError, match="call `fit` first"):
        integrate(trapped, ForensicAnalyzer(trapped))
    with pytest.raises(ValueError, match="without a QIM decoder"):
        integrate(plain, analyzer)
