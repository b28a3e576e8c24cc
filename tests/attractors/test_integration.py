import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

import keras_traps
from keras_traps import (
    Calibration,
    ForensicAnalyzer,
    TrapSettings,
    inject,
    integrate,
)
from keras_traps.attacks import create
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence, defend
from keras_traps.models.inference import predict


@pytest.fixture(scope="module")
def integrated(digits_defence: Defence) -> keras.Model:
    return integrate(digits_defence.trapped, digits_defence.main_analyzer)


@pytest.fixture(scope="module")
def attacked(digits_defence: Defence, digits_test: Dataset) -> npt.NDArray[np.float32]:
    attack = create("PGD", eps=0.3, eps_iter=0.05, nb_iter=10)
    images, labels = digits_test.images[:60], digits_test.labels[:60]
    trapped = digits_defence.trapped
    return attack(trapped, images, labels, output="scores").images


def expected_answers(
    defence: Defence, images: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    verdict = defence.main_analyzer.detect(images)
    answers = predict(defence.trapped, images).argmax(axis=1)
    flagged = verdict.is_adversarial
    return np.where(flagged, verdict.recovered, answers), flagged


def test_clean_images_are_answered_as_model_and_analyzer_do(
    integrated: keras.Model, digits_defence: Defence, digits_test: Dataset
) -> None:
    expected, flagged = expected_answers(digits_defence, digits_test.images)
    assert 0 < flagged.mean() < 0.15
    answers = predict(integrated, digits_test.images)
    np.testing.assert_array_equal(answers.argmax(axis=1), expected)
    trapped = predict(digits_defence.trapped, digits_test.images)
    np.testing.assert_array_equal(answers[~flagged], trapped[~flagged])


def test_attacked_images_are_answered_as_model_and_analyzer_do(
    integrated: keras.Model,
    digits_defence: Defence,
    attacked: npt.NDArray[np.float32],
) -> None:
    expected, flagged = expected_answers(digits_defence, attacked)
    assert flagged.mean() > 0.5
    answers = predict(integrated, attacked)
    np.testing.assert_array_equal(answers.argmax(axis=1), expected)
    np.testing.assert_allclose(answers[flagged].sum(axis=1), 1, rtol=1e-5)


def test_flagged_images_get_their_class_back(
    integrated: keras.Model,
    digits_defence: Defence,
    digits_test: Dataset,
    attacked: npt.NDArray[np.float32],
) -> None:
    labels = digits_test.labels[:60]
    trapped = predict(digits_defence.trapped, attacked).argmax(axis=1) == labels
    joined = predict(integrated, attacked).argmax(axis=1) == labels
    assert joined.sum() > trapped.sum()


def test_its_shapes_are_those_of_the_trapped_model(
    integrated: keras.Model, digits_defence: Defence
) -> None:
    trapped = digits_defence.trapped
    assert integrated.input_shape == trapped.input_shape
    assert integrated.output_shape == trapped.output_shape
    assert integrated.get_layer("qim_decoder") is trapped.get_layer("qim_decoder")
    thresholds = digits_defence.main_analyzer.thresholds
    layer = integrated.get_layer("detect_recover")
    assert (layer.upper, layer.lower, layer.deviation, layer.softness) == (
        thresholds.upper,
        thresholds.lower,
        thresholds.deviation,
        0.0,
    )


def test_softness_reaches_the_layer(digits_defence: Defence) -> None:
    soft = integrate(
        digits_defence.trapped, digits_defence.main_analyzer, softness=0.25
    )
    assert soft.get_layer("detect_recover").softness == 0.25


def test_by_depth_flagged_clean_images_keep_the_answer_of_the_classifier(
    digits_defence: Defence, digits_test: Dataset
) -> None:
    by_depth = integrate(
        digits_defence.trapped, digits_defence.main_analyzer, recovery="depth"
    )
    verdict = digits_defence.main_analyzer.detect(digits_test.images)
    flagged = digits_test.images[verdict.is_adversarial]
    assert len(flagged)
    np.testing.assert_array_equal(
        predict(by_depth, flagged).argmax(axis=1),
        predict(digits_defence.classifier, flagged).argmax(axis=1),
    )


def test_by_depth_attacked_images_get_their_class_back(
    digits_defence: Defence,
    digits_test: Dataset,
    attacked: npt.NDArray[np.float32],
) -> None:
    by_depth = integrate(
        digits_defence.trapped, digits_defence.main_analyzer, recovery="depth"
    )
    images, labels = digits_test.images[:60], digits_test.labels[:60]
    fooled = predict(digits_defence.trapped, attacked).argmax(axis=1) != labels
    assert fooled.mean() > 0.75
    wrong = predict(by_depth, attacked).argmax(axis=1) != labels
    assert wrong.mean() < 0.15
    # The gradient that the answer has does not lead out again.
    attack = create("PGD", eps=0.3, eps_iter=0.05, nb_iter=10)
    result = attack(by_depth, images, labels, output="scores")
    assert result.success.mean() < 0.15
    within = digits_defence.main_analyzer.correlations(result.images).min(axis=1)
    stopped = integrate(
        digits_defence.trapped, digits_defence.main_analyzer, recovery="label"
    )
    result = attack(stopped, images, labels, output="scores")
    before = digits_defence.main_analyzer.correlations(result.images).min(axis=1)
    assert np.median(within) < np.median(before) - 0.2


@pytest.mark.parametrize("temperature", [1.0, 0.002])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("reloaded", [False, True])
def test_by_depth_the_second_class_is_named_however_cold_the_soft_labels_are(
    digits_defence: Defence,
    digits_test: Dataset,
    temperature: float,
    kind: Any,
    reloaded: bool,
    tmp_path: Path,
) -> None:
    decoder = digits_defence.main_analyzer.decoder
    classifier = digits_defence.classifier
    if kind == "probabilities":
        classifier = keras.Sequential([classifier, keras.layers.Softmax()])
    settings = TrapSettings(
        output=kind,
        a0=decoder.a0,
        a1=decoder.a1,
        a2=decoder.a2,
        step_weights=tuple(decoder.step_weights),
        temperature=temperature,
    )
    trapped = inject(classifier, settings)
    if reloaded:
        trapped.save(tmp_path / "trapped.keras")
        trapped = keras.saving.load_model(tmp_path / "trapped.keras")
    # All is flagged, nothing deep, and the class of highest correlation is a goal.
    thresholds = dataclasses.replace(
        digits_defence.main_analyzer.thresholds, upper=-9.0, lower=0.0
    )
    analyzer = ForensicAnalyzer(trapped).with_thresholds(thresholds)
    joined = integrate(trapped, analyzer, recovery="depth", depth=9.0, height=0.0)
    answers = predict(classifier, digits_test.images)
    correlations = analyzer.correlations(digits_test.images)
    # Two of the highest, as small images may have, are both left out.
    goals = correlations == correlations.max(axis=1, keepdims=True)
    left = np.where(goals, -np.inf, answers)
    expected = left.argmax(axis=1)
    assert (expected != answers.argmax(axis=1)).sum() > 10
    found = predict(joined, digits_test.images).argmax(axis=1)
    np.testing.assert_array_equal(found, expected)


def test_models_made_by_hand_may_share_their_soft_labels(
    digits_defence: Defence, digits_test: Dataset
) -> None:
    trapped, analyzer = digits_defence.trapped, digits_defence.main_analyzer
    decoder, head = analyzer.decoder, keras_traps.layers.SoftLabels(0.01)
    logits = digits_defence.classifier
    weaker = keras.Sequential([logits, keras.layers.Rescaling(0.5)])
    mine = []
    for classifier in (logits, weaker):
        images = keras.Input((8, 8, 1))
        parts = [head(classifier(images)), decoder(images)]
        total = keras_traps.layers.NormalizedSum(1, name="normalized_sum")(parts)
        mine.append(keras.Model(images, total))
    for model in mine:
        joined = integrate(
            model, analyzer, recovery="depth", recovery_classifier=logits
        )
        assert predict(joined, digits_test.images[:3]).shape == (3, 10)
        by_depth = integrate(model, analyzer, recovery="depth")
        np.testing.assert_array_equal(
            predict(by_depth, digits_test.images).argmax(axis=1),
            predict(
                integrate(trapped, analyzer, recovery="depth"), digits_test.images
            ).argmax(axis=1),
        )


def test_the_depth_is_a_share_of_the_way_to_the_least_correlation(
    digits_defence: Defence,
) -> None:
    trapped, analyzer = digits_defence.trapped, digits_defence.main_analyzer
    chosen = integrate(trapped, analyzer, recovery="depth")
    least = -0.7615942 * trapped.get_layer("qim_decoder").a2
    depth = chosen.get_layer("detect_recover").depth
    assert depth == pytest.approx(0.35 * (analyzer.thresholds.lower - least))
    given = integrate(trapped, analyzer, recovery="depth", depth=0.5)
    assert given.get_layer("detect_recover").depth == 0.5


def test_the_height_is_a_share_of_the_way_to_the_largest_correlation(
    digits_defence: Defence,
) -> None:
    trapped, analyzer = digits_defence.trapped, digits_defence.main_analyzer
    chosen = integrate(trapped, analyzer, recovery="depth")
    most = trapped.get_layer("qim_decoder").a2
    height = chosen.get_layer("detect_recover").height
    assert height == pytest.approx(0.75 * (most - analyzer.thresholds.upper))
    given = integrate(trapped, analyzer, recovery="depth", height=0.5)
    assert given.get_layer("detect_recover").height == 0.5


def test_thresholds_beyond_all_correlations_are_met(digits_defence: Defence) -> None:
    trapped = digits_defence.trapped
    thresholds = digits_defence.main_analyzer.thresholds
    beyond = dataclasses.replace(thresholds, upper=9.0, lower=-9.0)
    analyzer = ForensicAnalyzer(trapped).with_thresholds(beyond)
    assert integrate(trapped, analyzer).get_layer("detect_recover").depth is None
    with pytest.raises(ValueError, match=r"`analyzer`.*Received: lower=-9"):
        integrate(trapped, analyzer, recovery="depth")
    high = dataclasses.replace(thresholds, upper=9.0)
    analyzer = ForensicAnalyzer(trapped).with_thresholds(high)
    by_depth = integrate(trapped, analyzer, recovery="depth")
    assert by_depth.get_layer("detect_recover").height == 0


def test_a_keras_file_brings_it_back(
    integrated: keras.Model, attacked: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    path = tmp_path / "integrated.keras"
    integrated.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(
        predict(loaded, attacked), predict(integrated, attacked)
    )


def test_a_trapped_model_from_a_file_is_integrated_too(
    integrated: keras.Model,
    digits_defence: Defence,
    attacked: npt.NDArray[np.float32],
    tmp_path: Path,
) -> None:
    path = tmp_path / "trapped.keras"
    digits_defence.trapped.save(path)
    again = integrate(keras.saving.load_model(path), digits_defence.main_analyzer)
    np.testing.assert_array_equal(
        predict(again, attacked), predict(integrated, attacked)
    )


def test_an_analyzer_of_another_decoder_is_refused(
    digits_defence: Defence, digits_calibration: Calibration, digits_train: Dataset
) -> None:
    other = defend(
        digits_defence.classifier,
        digits_calibration.reseeded(1).settings,
        digits_train.images,
    )
    with pytest.raises(ValueError, match=r"argument `analyzer`.*fingerprint"):
        integrate(digits_defence.trapped, other.main_analyzer)


def test_an_analyzer_that_was_not_fitted_is_refused(digits_defence: Defence) -> None:
    with pytest.raises(RuntimeError, match="call `fit` first"):
        integrate(digits_defence.trapped, ForensicAnalyzer(digits_defence.trapped))


def test_a_model_without_traps_is_refused(digits_defence: Defence) -> None:
    with pytest.raises(ValueError, match="without a QIM decoder"):
        integrate(digits_defence.classifier, digits_defence.main_analyzer)
