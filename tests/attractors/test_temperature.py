import dataclasses
import math
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import attacks
from keras_traps.attractors import ForensicAnalyzer, calibrate, inject
from keras_traps.attractors.calibration_rules import temperature_for
from keras_traps.datasets import Dataset
from keras_traps.models.inference import predict
from tests.attractors.conftest import least_squares_classifier, softmax
from tests.attractors.test_injection import IMAGES, SETTINGS, functional


def leads(lead: float) -> Any:
    """Logits of 2000 images; all but one lead by as much."""
    logits = np.zeros((2000, 3), np.float32)
    logits[:, 1] = lead
    logits[7, 1] = 1e-4
    return logits


@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("temperature", [0.01, 0.3, 0.99])
def test_at_the_chosen_temperature_answers_lead_by_0_99(
    temperature: float, output: Any
) -> None:
    logits = leads(2 * math.atanh(0.99) * temperature)
    answers = logits if output == "logits" else softmax(logits)
    found = temperature_for(answers, output)
    assert found == pytest.approx(temperature, rel=1e-3)
    first, second = 1 / (1 + np.exp(np.array([-1, 1]) * logits[0, 1] / found))
    assert first - second == pytest.approx(0.99, rel=1e-4)


def test_a_sure_classifier_keeps_its_soft_labels() -> None:
    assert temperature_for(leads(20.0), "logits") == 1.0


def test_ties_do_not_make_it_0() -> None:
    assert temperature_for(np.ones((100, 3), np.float32), "logits") == 1e-3


@pytest.mark.parametrize("temperature", [0.05, 4.0])
@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_the_sum_has_soft_labels_of_this_temperature(
    kind: str, temperature: float
) -> None:
    model = functional(activation=kind)
    output: Any = "logits" if kind == "linear" else "probabilities"
    settings = dataclasses.replace(SETTINGS, output=output, temperature=temperature)
    trapped = inject(model, settings)
    logits = np.array(model(IMAGES, training=False), np.float32)
    if kind == "softmax":
        np.log(logits, out=logits)
    w = np.asarray(settings.decoder(3)(IMAGES))
    total = softmax(logits / temperature) + w
    expected = total / np.abs(total).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(trapped(IMAGES), expected, rtol=1e-3, atol=1e-5)


def test_calibration_takes_the_temperature_that_it_is_given(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    def settings(temperature: float | None) -> Any:
        found = calibrate(
            classifier,
            digits_train.images,
            output="logits",
            budget=0.005,
            temperature=temperature,
            largest_a2=100.0,
        )
        return found.settings, found.explanation

    plain, said = settings(1.0)
    assert plain.temperature == 1.0
    assert any("temperature 1." in sentence for sentence in said)
    chosen, said = settings(None)
    logits = predict(classifier, digits_train.images)
    assert chosen.temperature == temperature_for(logits, "logits") < 0.1
    assert any("a temperature of 0.0" in sentence for sentence in said)
    # The surer the classifier is, the more W may weigh.
    assert chosen.a2 > 1.5 * plain.a2


def test_the_explanation_tells_where_the_least_temperature_is_reached(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    images = keras.Input((8, 8, 1))
    unsure = keras.Model(images, classifier(images) * 1e-3)

    def told(model: keras.Model, temperature: float | None = None) -> bool:
        found = calibrate(
            model,
            digits_train.images,
            output="logits",
            budget=0.1,
            temperature=temperature,
        )
        assert found.settings.temperature == 0.001 or model is classifier
        return any("the least that is chosen" in one for one in found.explanation)

    assert told(unsure)
    assert not told(unsure, 0.001)
    assert not told(classifier)


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_any_output_is_calibrated_alike(kind: str, digits_train: Dataset) -> None:
    output: Any = "logits" if kind == "linear" else "probabilities"
    found = calibrate(
        least_squares_classifier(digits_train, kind),
        digits_train.images,
        output=output,
        budget=0.005,
        soft_labels=True,
    )
    logits = predict(
        least_squares_classifier(digits_train, "linear"), digits_train.images
    )
    expected = temperature_for(logits, "logits")
    assert found.settings.temperature == pytest.approx(expected, rel=1e-3)


def test_the_traps_of_an_unsure_classifier_are_found_where_it_is_made_sure(
    classifier: keras.Model, digits_train: Dataset, digits_test: Dataset
) -> None:
    """A linear classifier is never sure; its own gradient leads everywhere."""

    def unnoticed(temperature: float | None) -> float:
        calibration = calibrate(
            classifier,
            digits_train.images,
            output="logits",
            budget=0.005,
            temperature=temperature,
        )
        trapped = inject(classifier, calibration.settings)
        analyzer = ForensicAnalyzer(trapped).fit(digits_train.images, fpr=0.05)
        images, labels = digits_test.images[:100], digits_test.labels[:100]
        attack = attacks.create("DeepFool", max_iter=50, overshoot=0.02)
        result = attack(trapped, images, labels, output="scores")
        flagged = analyzer.detect(result.images).is_adversarial
        return float((result.success & ~flagged).mean())

    assert unnoticed(None) < 0.5 * unnoticed(1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-40, 1e8, math.nan, math.inf])
def test_a_temperature_out_of_range_is_refused(
    classifier: keras.Model, digits_train: Dataset, temperature: float
) -> None:
    with pytest.raises(ValueError, match=r"argument `temperature`.*0\.0001 to 100"):
        calibrate(
            classifier, digits_train.images, output="logits", temperature=temperature
        )
    wrong = dataclasses.replace(SETTINGS, temperature=temperature)
    with pytest.raises(ValueError, match=r"argument `temperature`.*0\.0001 to 100"):
        inject(functional(), wrong)


def test_logits_in_the_sum_have_no_temperature(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    wrong = dataclasses.replace(SETTINGS, soft_labels=False, temperature=0.5)
    with pytest.raises(ValueError, match=r"`temperature`.*soft_labels=False"):
        inject(functional(), wrong)
    with pytest.raises(ValueError, match=r"`temperature`.*soft_labels=False"):
        calibrate(
            classifier,
            digits_train.images,
            output="logits",
            soft_labels=False,
            temperature=0.5,
        )
    found = calibrate(
        classifier, digits_train.images, output="logits", soft_labels=False
    )
    assert found.settings.temperature == 1.0
