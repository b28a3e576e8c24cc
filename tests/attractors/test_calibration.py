import dataclasses
import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import FloatArray
from keras_traps.attractors import (
    Calibration,
    calibrate,
    decoder_of,
    inject,
    raw_sum,
)
from keras_traps.attractors.calibration_rules import changed_answers as share_changed
from keras_traps.attractors.calibration_rules import flat_share, messages_for
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder
from keras_traps.models import wrap
from keras_traps.models.inference import predict
from keras_traps.ops import Key
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


def test_m_answers_as_c_and_tells_how_sure_c_is(
    digits_classifier: keras.Model, digits_train: Dataset, digits_test: Dataset
) -> None:
    key = Key.from_seed(0)
    found = calibrate(digits_classifier, digits_train.images, output="logits", key=key)
    trapped = inject(digits_classifier, found)
    assert found.changed_answers <= found.budget
    for images in (digits_train.images, digits_test.images):
        c = softmax(predict(digits_classifier, images))
        m = predict(trapped, images)
        assert (m.argmax(axis=1) == c.argmax(axis=1)).mean() >= 0.999
        assert (np.abs(m.max(axis=1) - c.max(axis=1)) <= 0.05).mean() >= 0.95
        # An L1 norm has a kink at 0, and a term below it could change what M says.
        terms = predict(raw_sum(trapped), images)
        assert (terms > 0).all(axis=1).mean() >= 0.99


@pytest.mark.parametrize(
    "settings",
    [
        {"ord": 2, "messages": "random", "bounds": (0.0, 1.25)},
        {"messages": "balanced"},
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
    for name in settings:
        assert chosen[name] == settings[name]


@pytest.mark.parametrize("budget", [0.001, 0.05])
def test_w_alone_cannot_outvote_a_classifier_that_is_sure(
    classifier: keras.Model, digits_train: Dataset, budget: float
) -> None:
    found = calibrate(classifier, digits_train.images, output="logits", budget=budget)
    sure = ops.soft_labels(np.array([[90.0] + [0.0] * 9])).numpy()[0]
    # W lies above -0.77 A2, where equation 3 flattens out, and below A2.
    assert sure[1] + found.settings.a2 < sure[0] - 0.77 * found.settings.a2 + 0.2
    assert 2 * found.settings.a2 < sure[0] - sure[1]


def test_a_tie_of_c_is_not_for_w_to_decide(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    kernel, bias = classifier.get_layer("head").get_weights()
    # Two classes that are one.
    kernel[:, 8], bias[8] = kernel[:, 1], bias[1]
    classifier.get_layer("head").set_weights([kernel, bias])
    images = digits_train.images
    assert calibrate(classifier, images, output="logits").changed_answers <= 0.001
    assert 8 not in predict(classifier, images).argmax(axis=1)


def test_answers_that_w_changes_are_counted_and_more_than_the_budget_refused() -> None:
    # Sure, unsure, and sure again; W is large on the last two.
    logits = np.array([[9.0, 0.0], [0.1, 0.0], [0.0, 9.0]], np.float32)
    w = np.array([[0.0, 0.0], [-0.2, 0.3], [0.45, -0.3]], np.float32)
    assert share_changed(logits, "logits", w, budget=0.34) == pytest.approx(1 / 3)
    shares = softmax(logits)
    assert share_changed(shares, "probabilities", w, budget=0.34) == 1 / 3
    with pytest.raises(ValueError, match=r"`classifier`.*changes 33\.33%.*budget=0\.3"):
        share_changed(logits, "logits", w, budget=0.3)


def upscaled(images: Any) -> Any:
    return images.repeat(2, axis=1).repeat(2, axis=2)


RANDOM = np.random.default_rng(0).random((20, 8, 8, 3), np.float32)
ONE_AXIS = RANDOM.reshape(20, -1)


@pytest.mark.parametrize(
    ("images", "share"),
    [
        (RANDOM, 0.0),
        (np.full_like(RANDOM, 0.5), 1.0),
        (upscaled(RANDOM), 1.0),
        # Blocks across the borders of what was scaled up are of more colours.
        (np.roll(upscaled(RANDOM), 1, axis=1), 0.0),
        # Two of eight channels of colour are the same in all of a block.
        (np.concatenate([RANDOM] * 2 + [0 * RANDOM[..., :2]], axis=3), 0.25),
        # What is left over at the ends has no block.
        (upscaled(RANDOM)[:, :7, :5], 1.0),
        (RANDOM[:, :1], 0.0),
        (ONE_AXIS, 0.0),
        (ONE_AXIS.repeat(4, axis=1), 1.0),
        (np.where(np.arange(10) < 4, 0.0, ONE_AXIS[:, :10]), 0.5),
        (ONE_AXIS[:, :3], 0.0),
    ],
)
def test_the_share_of_blocks_of_one_colour(images: Any, share: float) -> None:
    assert flat_share(images) == pytest.approx(share)


def test_a_tenth_of_flat_blocks_is_too_many_for_balanced_messages() -> None:
    found = [messages_for(share) for share in (0.0, 0.0999, 0.1, 1.0)]
    assert found == ["balanced", "balanced", "random", "random"]


def test_messages_are_chosen_by_the_images_unless_they_are_given(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    def messages(images: Any, given: Any = None) -> str:
        asked: Any = {"output": "logits", "budget": 0.01, "messages": given}
        found = calibrate(classifier, images, **asked)
        assert any(
            sentence.startswith(f"Messages are {found.settings.messages}")
            for sentence in found.explanation
        )
        return found.settings.messages

    # The digits have black borders, noise has not.
    flat = digits_train.images
    noise = np.random.default_rng(0).random(flat.shape, np.float32)
    rough = np.clip(0.9 * flat + 0.1 * noise, 0, 1)
    assert (messages(flat), messages(rough)) == ("random", "balanced")
    assert (messages(flat, "balanced"), messages(rough, "random")) == (
        "balanced",
        "random",
    )


def test_probabilities_give_the_same_as_their_logits(
    digits_train: Dataset, calibration: Calibration
) -> None:
    model = least_squares_classifier(digits_train, "softmax")
    other = calibrate(
        model,
        digits_train.images,
        output="probabilities",
        budget=0.005,
        key=Key.from_seed(3),
    )
    assert other.settings.output == "probabilities"
    assert other.settings.a0 == pytest.approx(calibration.settings.a0, rel=1e-5)
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
        key=Key.from_seed(0),
    )
    weights = calibration.settings.step_weights
    spreads = []
    for step in range(len(steps)):
        alone = [w if i == step else 0.0 for i, w in enumerate(weights)]
        decoder = QIMDecoder.from_seed(
            0,
            num_classes=10,
            shape=(8, 8, 1),
            messages=calibration.settings.messages,
            steps=steps,
            step_weights=alone,
        )
        distances = np.asarray(decoder.distances(digits_train.images), np.float64)
        spreads.append(np.sqrt(distances.var(axis=0).mean()))
    largest = int(np.argmax(steps))
    assert weights[largest] == 1.0
    for step, spread in enumerate(spreads):
        expected = 1.0 if step == largest else share
        assert spread / spreads[largest] == pytest.approx(expected, rel=1e-3)


def test_clean_images_lie_at_0_where_w_adds_nothing(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    calibration = calibrate(
        classifier, digits_train.images, output="logits", budget=0.01
    )
    settings = calibration.settings
    decoder = decoder_of(inject(classifier, settings))
    distances = np.asarray(decoder.distances(digits_train.images), np.float64)
    steps, weights = decoder.pixel_steps, decoder.pixel_weights
    distances += np.dot(np.asarray(steps, np.float64), np.asarray(weights)) / 2
    u = settings.a0 * distances - settings.a1
    assert u.mean() == pytest.approx(0, abs=1e-4)
    assert settings.a0 < 0
    # The least soft label of a sure classifier of ten classes.
    least = 0.025 / 9
    w = decoder(digits_train.images).numpy()
    assert np.quantile(np.abs(np.minimum(w, 0)), 0.999) <= least * 1.001
    assert np.quantile(w, 0.9995) == pytest.approx(least, rel=0.1)
    assert calibration.clean_mean == pytest.approx(distances.mean(), rel=1e-5)
    spread = np.sqrt(distances.var(axis=0).mean())
    assert calibration.clean_spread == pytest.approx(spread, rel=1e-3)


def test_the_same_images_and_key_give_the_same(
    classifier: keras.Model, digits_train: Dataset, calibration: Calibration
) -> None:
    def again(**changes: Any) -> Calibration:
        arguments = {
            "output": "logits",
            "budget": 0.005,
            "key": Key.from_seed(3),
            **changes,
        }
        return calibrate(classifier, digits_train.images, **arguments)

    assert again() == calibration
    assert again(key=Key.from_seed(4)).settings.a0 != calibration.settings.a0
    batched = again(batch_size=100)
    assert batched.settings.a0 == pytest.approx(calibration.settings.a0, rel=1e-4)
    assert batched.changed_answers == pytest.approx(
        calibration.changed_answers, abs=ONE_IMAGE
    )


def test_it_outlives_json(calibration: Calibration) -> None:
    text = json.dumps(calibration.to_dict())
    key = calibration.settings.key
    assert Calibration.from_dict(json.loads(text), key=key) == calibration
    assert Calibration.from_dict(json.loads(text)).settings.key != key
    assert key.fingerprint not in text


def test_another_key_keeps_the_constants_and_is_checked(
    calibration: Calibration, classifier: keras.Model, digits_train: Dataset
) -> None:
    key, images = Key.from_seed(8), digits_train.images
    other = calibration.with_key(key, classifier, images)
    assert other.settings == dataclasses.replace(calibration.settings, key=key)
    assert other.changed_answers <= calibration.budget
    assert key.fingerprint in other.explanation[-1]
    fresh = calibration.with_key(None, classifier, images)
    assert fresh.settings.key not in (key, calibration.settings.key)
    strict = dataclasses.replace(
        calibration,
        budget=1e-9,
        # W is as large on clean images as C is sure.
        settings=dataclasses.replace(
            calibration.settings,
            a0=50 * calibration.settings.a0,
            a1=50 * calibration.settings.a1,
            a2=9.0,
        ),
    )
    with pytest.raises(ValueError, match=r"argument `key`.*calibrate with it"):
        strict.with_key(key, classifier, images)


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
        ("batch_size", (0, 2.5, True), "Expected"),
        ("key", (b"short",), "at least 16 bytes"),
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


def test_labels_tell_the_accuracy_and_change_nothing_else(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    usual: Any = {"output": "logits", "budget": 0.01, "key": Key.from_seed(0)}
    plain = calibrate(classifier, digits_train.images, **usual)
    batches = tf.data.Dataset.from_tensor_slices(
        (digits_train.images, digits_train.labels)
    ).batch(100)
    told = calibrate(classifier, batches, **usual)
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
    usual: Any = {"output": "logits", "budget": 0.01, "key": Key.from_seed(0)}
    plain = calibrate(classifier, digits_train.images, **usual)
    levels = wrap(classifier, scale=1 / 255)
    found = calibrate(levels, digits_train.pixels, bounds=(0, 255), **usual)
    assert found.settings.bounds == (0.0, 255.0)
    assert found.settings.a0 == pytest.approx(plain.settings.a0, rel=1e-5)
    assert found.settings.a2 == pytest.approx(plain.settings.a2, rel=1e-3)
    trapped = inject(levels, found)
    np.testing.assert_allclose(
        trapped(digits_train.pixels[:50]),
        inject(classifier, plain)(digits_train.images[:50]),
        atol=1e-3,
    )
