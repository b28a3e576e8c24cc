import dataclasses
import json
import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attractors import Calibration, calibrate, decoder_of, inject
from keras_traps.attractors.calibration_rules import temperature_for
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder
from keras_traps.models import wrap
from keras_traps.models.inference import predict
from tests.attractors.conftest import (
    least_squares_classifier,
    nan_on_black_images,
    softmax,
)


def changed_answers(
    classifier: keras.Model, calibration: Calibration, images: FloatArray
) -> float:
    """The share of images that M and C answer differently, from the built M."""
    trapped = inject(classifier, calibration.settings)
    before = predict(classifier, images).argmax(axis=1)
    return float((predict(trapped, images).argmax(axis=1) != before).mean())


# An image whose best classes tie but for rounding may fall to either side.
ONE_IMAGE = 1.5 / 1297


def with_a2(calibration: Calibration, factor: float) -> Calibration:
    settings = calibration.settings
    settings = dataclasses.replace(settings, a2=settings.a2 * factor)
    return dataclasses.replace(calibration, settings=settings)


@pytest.mark.parametrize(("seed", "budget"), [(0, 0.001), (5, 0.05)])
def test_the_budget_is_kept_and_used_up(
    classifier: keras.Model, digits_train: Dataset, seed: int, budget: float
) -> None:
    images = digits_train.images
    calibration = calibrate(
        classifier, images, output="logits", budget=budget, seed=seed, largest_a2=9.0
    )
    changed = changed_answers(classifier, calibration, images)
    assert changed == pytest.approx(calibration.changed_answers, abs=ONE_IMAGE)
    assert calibration.changed_answers <= budget
    assert calibration.settings.a2 < 9.0
    # A little more is too much.
    assert changed_answers(classifier, with_a2(calibration, 1.002), images) > budget
    (*_, last) = calibration.explanation
    assert "a larger one would change more than the budget" in last


@pytest.mark.parametrize(
    "settings",
    [
        {"soft_labels": False, "largest_a2": 50.0},
        {"ord": 2, "messages": "random", "bounds": (0.0, 1.25)},
        {"steps": (128.0,)},
        {"steps": (128.0, 3.0, 128.0)},
    ],
)
def test_the_budget_is_kept_with_every_setting(
    classifier: keras.Model, digits_train: Dataset, settings: dict[str, Any]
) -> None:
    calibration = calibrate(
        classifier, digits_train.images, output="logits", budget=0.01, **settings
    )
    changed = changed_answers(classifier, calibration, digits_train.images)
    assert changed == pytest.approx(calibration.changed_answers, abs=ONE_IMAGE)
    assert calibration.changed_answers <= 0.01
    chosen = dataclasses.asdict(calibration.settings)
    for name in settings.keys() - {"largest_a2"}:
        assert chosen[name] == settings[name]


def test_correlations_are_never_larger_than_the_cap(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    calibration = calibrate(
        classifier, digits_train.images, output="logits", budget=0.5, largest_a2=0.02
    )
    assert calibration.settings.a2 == 0.02
    assert "the cap of 0.02 was reached" in calibration.explanation[-1]
    changed = changed_answers(classifier, calibration, digits_train.images)
    assert changed == pytest.approx(calibration.changed_answers, abs=ONE_IMAGE)
    assert changed < 0.5


def test_probabilities_give_the_same_as_their_logits(
    digits_train: Dataset, calibration: Calibration
) -> None:
    model = least_squares_classifier(digits_train, "softmax")
    other = calibrate(
        model, digits_train.images, output="probabilities", budget=0.005, seed=3
    )
    assert other.settings.output == "probabilities"
    assert other.settings.a2 == pytest.approx(calibration.settings.a2, rel=1e-5)
    assert other.changed_answers == pytest.approx(
        calibration.changed_answers, abs=ONE_IMAGE
    )


@pytest.mark.parametrize(
    ("steps", "share"),
    [((128.0, 7.0), 2.0), ((3.0, 20.0, 90.0), 0.1)],
)
def test_small_steps_add_their_share_to_the_spread(
    classifier: keras.Model,
    digits_train: Dataset,
    steps: tuple[float, ...],
    share: float,
) -> None:
    calibration = calibrate(
        classifier,
        digits_train.images,
        output="logits",
        budget=0.01,
        steps=steps,
        small_step_share=share,
    )
    weights = calibration.settings.step_weights
    spreads = []
    for step in range(len(steps)):
        alone = [w if i == step else 0.0 for i, w in enumerate(weights)]
        decoder = QIMDecoder.from_seed(
            0, num_classes=10, shape=(8, 8, 1), steps=steps, step_weights=alone
        )
        distances = np.asarray(decoder.distances(digits_train.images), np.float64)
        spreads.append(np.sqrt(distances.var(axis=0).mean()))
    largest = int(np.argmax(steps))
    assert weights[largest] == 1.0
    for step, spread in enumerate(spreads):
        expected = 1.0 if step == largest else share
        assert spread / spreads[largest] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("position", "reach"), [(0.0, 0.5), (0.5, 0.1)])
def test_clean_images_land_where_they_were_sent(
    classifier: keras.Model,
    digits_train: Dataset,
    position: float,
    reach: float,
) -> None:
    calibration = calibrate(
        classifier,
        digits_train.images,
        output="logits",
        budget=0.01,
        clean_position=position,
        clean_reach=reach,
    )
    settings = calibration.settings
    decoder = decoder_of(inject(classifier, settings))
    distances = np.asarray(decoder.distances(digits_train.images), np.float64)
    steps, weights = decoder.pixel_steps, decoder.pixel_weights
    distances += np.dot(np.asarray(steps, np.float64), np.asarray(weights)) / 2
    u = settings.a0 * distances - settings.a1
    assert u.mean() == pytest.approx(position, abs=1e-4)
    assert np.quantile(np.abs(u - position), 0.999) == pytest.approx(reach, rel=1e-3)
    assert settings.a0 < 0
    assert calibration.clean_mean == pytest.approx(distances.mean(), rel=1e-5)
    spread = np.sqrt(distances.var(axis=0).mean())
    assert calibration.clean_spread == pytest.approx(spread, rel=1e-3)


def test_the_same_images_and_seed_give_the_same(
    classifier: keras.Model, digits_train: Dataset, calibration: Calibration
) -> None:
    def again(**changes: Any) -> Calibration:
        arguments = {"output": "logits", "budget": 0.005, "seed": 3, **changes}
        return calibrate(classifier, digits_train.images, **arguments)

    assert again() == calibration
    assert again(seed=4).settings.a0 != calibration.settings.a0
    batched = again(batch_size=100)
    assert batched.settings.a2 == pytest.approx(calibration.settings.a2, rel=1e-4)
    assert batched.changed_answers == pytest.approx(
        calibration.changed_answers, abs=ONE_IMAGE
    )


def test_it_outlives_json(calibration: Calibration) -> None:
    text = json.dumps(calibration.to_dict())
    assert Calibration.from_dict(json.loads(text)) == calibration


def test_another_seed_keeps_the_constants_and_says_so(calibration: Calibration) -> None:
    other = calibration.reseeded(8)
    assert other.settings == dataclasses.replace(calibration.settings, seed=8)
    assert (
        "messages of seed 3 and are used for those of seed 8" in other.explanation[-1]
    )
    assert calibration.reseeded(3) is calibration


def leads(lead: float) -> Any:
    """Logits of 2000 images; all but one lead by as much."""
    logits = np.zeros((2000, 3), np.float32)
    logits[:, 1] = lead
    logits[7, 1] = 1e-4
    return logits


@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("temperature", [0.01, 0.99])
def test_at_the_chosen_temperature_answers_lead_by_0_99(
    temperature: float, output: Any
) -> None:
    logits = leads(2 * math.atanh(0.99) * temperature)
    answers = logits if output == "logits" else softmax(logits)
    found = temperature_for(answers, output)
    assert found == pytest.approx(temperature, rel=1e-3)
    first, second = 1 / (1 + np.exp(np.array([-1, 1]) * logits[0, 1] / found))
    assert first - second == pytest.approx(0.99, rel=1e-4)


def test_the_temperature_has_its_limits() -> None:
    # A sure classifier keeps its soft labels; ties do not make it 0.
    assert temperature_for(leads(20.0), "logits") == 1.0
    assert temperature_for(np.ones((100, 3), np.float32), "logits") == 1e-3


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
    expected = temperature_for(logits, "logits")
    assert chosen.temperature == pytest.approx(expected)
    assert expected < 0.1
    assert any("a temperature of 0.0" in sentence for sentence in said)
    # The surer the classifier is, the more W may weigh.
    assert chosen.a2 > 1.5 * plain.a2


@pytest.mark.parametrize(("budget", "needed"), [(0.001, 1000), (0.3, 4)])
def test_too_few_images_say_how_many_are_needed(
    classifier: keras.Model, digits_train: Dataset, budget: float, needed: int
) -> None:
    images = digits_train.images[: needed - 1]
    with pytest.raises(ValueError, match=rf"at least {needed} images.*{needed - 1}"):
        calibrate(classifier, images, output="logits", budget=budget)
    enough = calibrate(
        classifier, digits_train.images[:needed], output="logits", budget=budget
    )
    assert enough.num_images == needed


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("budget", (0.0, 1.0, -0.1, np.nan, True), "between 0 and 1"),
        ("small_step_share", (0.0, np.nan, True), "number above 0"),
        ("clean_position", (1.0, -np.inf, True), "number below 1"),
        ("clean_reach", (0.0, np.inf, True), "number above 0"),
        ("largest_a2", (-1.0, np.nan, True), "number above 0"),
        ("temperature", (0.0, 1e8, np.nan, True), "from 0.0001 to 100"),
        ("batch_size", (0, 2.5, True), "Expected"),
        ("seed", (-1, 1.5, True), "integer"),
        ("steps", ((), (3.0, 0.0)), "Expected"),
        ("ord", (3,), "1, 2 or infinity"),
    ],
)
def test_an_argument_out_of_its_range_is_refused_before_any_work(
    classifier: keras.Model,
    digits_train: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    values: tuple[Any, ...],
    expected: str,
) -> None:
    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("It was asked before.")

    monkeypatch.setattr("keras_traps.attractors.calibration.predict", work)
    for value in values:
        settings: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"argument `{name}`.*{expected}"):
            calibrate(classifier, digits_train.images, output="logits", **settings)


def test_classifiers_and_images_that_cannot_be_used_are_refused(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    def refused(model: keras.Model, images: Any, match: str, **settings: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=match):
            calibrate(model, images, **{"output": "logits", **settings})

    images = digits_train.images[:1000].copy()
    alike = np.repeat(images[:1], 1000, axis=0)
    of_one = {"labels": np.full(1000, digits_train.labels[0])}
    refused(classifier, alike, r"argument `images`.*images that differ", **of_one)
    refused(classifier, images / 255, r"argument `images`.*use the range of pixels")
    refused(classifier, digits_train.pixels, "divide integer pixels by 255")
    refused(classifier, images[..., 0], r"images of shape \(batch, 8, 8, 1\)")
    wrong = {"output": "probabilities"}
    refused(classifier, images, "do not look like probabilities", **wrong)
    refused(classifier, images, "a0", a0=3.0)
    images[-1] = 0
    refused(nan_on_black_images(classifier), images, "numbers that are not finite")
    classifier.get_layer("head").set_weights([np.zeros((64, 10)), np.zeros(10)])
    refused(classifier, images, r"answers of many classes.*2 of 10 on 100.0%")
    of_one = {"labels": np.zeros(1000, int)}
    refused(classifier, images, r"argument `classifier`.*tie on 100.00%", **of_one)


def test_labels_tell_the_accuracy_and_change_nothing_else(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    plain = calibrate(classifier, digits_train.images, output="logits", budget=0.01)
    batches = tf.data.Dataset.from_tensor_slices(
        (digits_train.images, digits_train.labels)
    ).batch(100)
    told = calibrate(classifier, batches, output="logits", budget=0.01)
    right = predict(classifier, digits_train.images).argmax(1) == digits_train.labels
    assert told.accuracy == right.mean() > 0.9
    assert f"right on {right.mean():.1%}" in told.explanation[0]
    assert plain.accuracy is None
    assert told.settings == plain.settings


def test_shuffled_labels_and_a_classifier_that_is_not_trained_are_refused(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    shuffled = np.random.default_rng(0).permutation(digits_train.labels)
    untrained = keras.models.clone_model(classifier)
    for model, labels in ((classifier, shuffled), (untrained, digits_train.labels)):
        with pytest.raises(ValueError, match=r"`labels`.*more often than chance, 1\d"):
            calibrate(model, digits_train.images, labels, output="logits")


def test_what_a_classifier_returns_is_found_out_and_said(
    classifier: keras.Model, digits_train: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    sure = keras.ops.softmax(classifier.output)
    for model, output in (
        (classifier, "logits"),
        (keras.Model(classifier.input, sure), "probabilities"),
    ):
        found = calibrate(model, digits_train.images, budget=0.01)
        assert found.settings.output == output
        assert capsys.readouterr().out.endswith(f"are taken for {output}.\n")


def test_too_few_images_are_told_which_budget_they_allow(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    few = digits_train.images[:400]
    with pytest.raises(ValueError, match=r"at least 1000 images.*budget=0.0025"):
        calibrate(classifier, few, output="logits")
    calibrate(classifier, few, output="logits", budget=0.0025)


def test_pixels_of_another_range_give_the_same_traps(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    plain = calibrate(classifier, digits_train.images, output="logits", budget=0.01)
    levels = wrap(classifier, scale=1 / 255)
    found = calibrate(
        levels, digits_train.pixels, output="logits", budget=0.01, bounds=(0, 255)
    )
    assert found.settings.bounds == (0.0, 255.0)
    assert found.settings.a0 == pytest.approx(plain.settings.a0, rel=1e-5)
    assert found.settings.a2 == pytest.approx(plain.settings.a2, rel=1e-3)
    trapped = inject(levels, found)
    np.testing.assert_allclose(
        trapped(digits_train.pixels[:50]),
        inject(classifier, plain)(digits_train.images[:50]),
        atol=1e-3,
    )
