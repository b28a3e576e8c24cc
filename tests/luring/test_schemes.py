from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.datasets import Dataset
from keras_traps.detectors import check_detector
from keras_traps.layers import LuringInput
from keras_traps.luring import (
    DisagreementDetector,
    LuredClassifier,
    agreed_class,
    agreement_model,
    target_model,
)
from keras_traps.luring.schemes import softened
from keras_traps.models.forms import find_bounds
from keras_traps.models.inference import predict
from tests.luring.conftest import GREY, SHAPE, answers_to, tiny_lure, tiny_target


def answers(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.asarray(part) for name, part in model(images).items()}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def far_lure() -> keras.Model:
    """A network that turns some answers: it shows M the image in negative."""
    return keras.Sequential([keras.Input(SHAPE), layers.Rescaling(-1.0, 1.0)])


@pytest.mark.parametrize("ends", ["logits", "softmax"])
def test_an_answer_is_given_where_both_agree(ends: Any, images: np.ndarray) -> None:
    target, lure = tiny_target(ends=ends), far_lure()
    output: Any = "logits" if ends == "logits" else "probabilities"
    found = answers(agreement_model(target, lure, output=output), images)
    first, second = predict(target, images), predict(target, predict(lure, images))
    agreed = first.argmax(axis=1) == second.argmax(axis=1)
    assert 0 < agreed.sum() < len(images)
    np.testing.assert_array_equal(found["agreed"], agreed)
    np.testing.assert_array_equal(
        found["class_id"], np.where(agreed, first.argmax(axis=1), -1)
    )
    if ends == "logits":
        first, second = softmax(first), softmax(second)
    np.testing.assert_allclose(found["probabilities"], first, atol=1e-6)
    np.testing.assert_allclose(found["lured_probabilities"], second, atol=1e-6)


def test_what_the_scheme_refuses_is_what_the_detector_flags(images: np.ndarray) -> None:
    target, lure = tiny_target(), far_lure()
    lured = keras.Model(lure.inputs[0], target(lure.outputs[0]))
    refused = ~answers(agreement_model(target, lure, output="logits"), images)["agreed"]
    detector = DisagreementDetector(target, lured)
    logits, said = predict(target, images), predict(lured, images).argmax(axis=1)
    leads = logits.max(axis=1) - logits[np.arange(len(images)), said]
    np.testing.assert_allclose(detector.score(images), leads, atol=1e-5)
    # Where no clean image is refused its threshold is 0, and the rule the scheme's.
    detector.fit_threshold(images[~refused], fpr=0.5)
    assert detector.threshold() == 0
    np.testing.assert_array_equal(detector.detect(images).is_adversarial, refused)
    check_detector(detector, images)


def test_the_target_alone_always_answers(images: np.ndarray) -> None:
    target = tiny_target()
    found = answers(target_model(target, output="logits"), images)
    logits = predict(target, images)
    np.testing.assert_array_equal(found["class_id"], logits.argmax(axis=1))
    np.testing.assert_allclose(found["probabilities"], softmax(logits), atol=1e-6)


def test_an_image_that_is_not_finite_gets_no_answer(images: np.ndarray) -> None:
    broken = images[:3].copy()
    broken[1, 2, 2, 0] = np.nan
    # Both give class 0 to not a number, and so agree on it.
    both = agreement_model(tiny_target(), tiny_lure(), output="logits")
    found = answers(both, broken)
    assert not found["agreed"][1]
    alone = target_model(tiny_target(), output="logits")
    assert answers(alone, broken)["class_id"][1] == found["class_id"][1] == -1


def test_a_lured_classifier_brings_its_parts(images: np.ndarray) -> None:
    # Without a sigmoid, so that it leaves [0, 1].
    ones = layers.Conv2D(1, 3, padding="same", bias_initializer="ones")
    network = keras.Sequential([keras.Input(SHAPE), ones])
    assert (predict(network, images) > 1).any()
    lured = LuredClassifier(tiny_target(), network, output="logits")
    expected = softmax(predict(lured, images))
    for lure in (lured.lure, lured.to_lure_model(), network):
        model = agreement_model(lured.target, lure, output="logits")
        found = answers(model, images)["lured_probabilities"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_dropout_stays_off_whatever_the_caller_says(images: np.ndarray) -> None:
    lure = LuringInput("cifar10", width=1 / 64, dropout=0.9)
    model = agreement_model(tiny_target(), lure, output="logits")
    found = [model(images, training=training) for training in (True, False)]
    for name in ("probabilities", "lured_probabilities"):
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_it_survives_a_file(images: np.ndarray, tmp_path: Path) -> None:
    lure = LuringInput("cifar10", width=1 / 64)
    model = agreement_model(tiny_target(), lure, output="logits")
    model.save(tmp_path / "scheme.keras")
    loaded = keras.saving.load_model(tmp_path / "scheme.keras")
    found, expected = answers(loaded, images), answers(model, images)
    assert set(found) == set(expected)
    for name, part in expected.items():
        np.testing.assert_array_equal(found[name], part)
        assert found[name].dtype == part.dtype


def test_bad_parts_are_named() -> None:
    target = tiny_target()
    lure: Any = "lure"
    with pytest.raises(TypeError, match=r"`lure`.*str"):
        agreement_model(target, lure, output="logits")
    smaller = keras.Sequential([keras.Input(SHAPE), layers.MaxPool2D()])
    with pytest.raises(ValueError, match=r"`network`.*\(6, 6, 1\).*3, 3"):
        agreement_model(target, smaller, output="logits")
    with pytest.raises(ValueError, match=r"`output`.*do not look like"):
        target_model(target, output="probabilities")
    text: Any = "target"
    with pytest.raises(TypeError, match="`target`"):
        target_model(text, output="logits")


def test_an_answer_is_given_where_both_name_one_class_and_all_is_finite() -> None:
    target = np.array([[2, 2, 1], [0, 3, 1], [0, 1, 5], [9, 0, 0], [9, 0, 0]], "f4")
    lured = np.array([[7, 7, 7], [1, 0, 0], [0, 0, 1], [np.inf, 0, 0], [1, 0, 0]], "f4")
    pixels = np.zeros((5, 2, 2, 1), "f4")
    pixels[4, 1, 1] = np.nan
    # Of equals the lowest; they differ; they agree; not finite; the image is not.
    assert agreed_class(target, lured).numpy().tolist() == [0, -1, 2, -1, 0]
    assert agreed_class(target, lured, pixels).numpy().tolist() == [0, -1, 2, -1, -1]
    graph = tf.function(agreed_class)
    assert graph(target, lured, pixels).numpy().tolist() == [0, -1, 2, -1, -1]


def test_the_softened_sigmoid_keeps_answers_and_bounds(
    grey_target: keras.Model, grey_digits: Dataset
) -> None:
    lure = LuringInput("cifar10", width=1 / 512, dropout=0.0, bounds=GREY)
    image = keras.Input((8, 8, 1))
    augmented = keras.Model(image, grey_target(lure(image)))
    soft = softened(augmented, softness=4.0)
    assert find_bounds(soft) == find_bounds(augmented) == GREY
    found, expected = (
        answers_to(model, grey_digits.pixels[:9]) for model in (soft, augmented)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_column_is_no_row_of_classes() -> None:
    with pytest.raises(ValueError, match=r"`target_outputs`.*\(5, 1\)"):
        agreed_class(np.zeros((5, 1)), np.zeros((5, 1)))
