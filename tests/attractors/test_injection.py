import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ops
from keras_traps.attractors import (
    Calibration,
    TrapSettings,
    decoder_of,
    inject,
    raw_sum,
)
from keras_traps.datasets import Dataset
from keras_traps.ops import Key
from tests.attractors.conftest import least_squares_classifier

IMAGES = np.random.default_rng(0).random((12, 5, 4, 2), np.float32)
SETTINGS = TrapSettings(
    output="logits",
    a0=-1e-3,
    a1=-1.0,
    a2=0.5,
    step_weights=(3.0, 1.0),
    key=Key.from_seed(5),
)


@keras.saving.register_keras_serializable(package="keras_traps_tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flat = keras.layers.Flatten()
        self.head = keras.layers.Dense(3)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.head(self.flat(inputs))


@keras.saving.register_keras_serializable(package="keras_traps_tests")
class Preprocessing(keras.Model):
    """A functional model that does more than its graph tells."""

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return super().call((inputs - 0.5) * 4, training=training, mask=mask)


def functional(units: int = 3, activation: str = "linear") -> keras.Model:
    inputs = keras.Input((5, 4, 2), name="pixels")
    x = keras.layers.Conv2D(4, 2, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation)(x))


def sequential() -> keras.Model:
    return keras.Sequential(
        [keras.Input((5, 4, 2)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )


def sequential_built_by_a_call() -> keras.Model:
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model(IMAGES)
    return model


def nested() -> keras.Model:
    inputs = keras.Input((5, 4, 2))
    inner = functional(6)
    inner.name = "classifier"
    x = keras.layers.Rescaling(2.0, name="qim_decoder")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(inner(x)))


def wrapped_subclass() -> keras.Model:
    inputs = keras.Input((5, 4, 2))
    return keras.Model(inputs, Subclassed()(inputs))


def functional_subclass() -> keras.Model:
    plain = functional()
    return Preprocessing(plain.input, plain.output)


KINDS = [
    functional,
    functional_subclass,
    sequential,
    sequential_built_by_a_call,
    nested,
    wrapped_subclass,
]


def expected_answer(model: keras.Model, settings: TrapSettings, images: Any) -> Any:
    answers = model(images, training=False)
    c = ops.soft_labels(answers, from_logits=settings.output == "logits")
    decoder = settings.decoder(c.shape[1])
    total = c + np.asarray(decoder(images), np.float64)
    return total / np.linalg.norm(total, ord=settings.ord, axis=1, keepdims=True)


@pytest.mark.parametrize("make", KINDS)
def test_any_kind_of_model_becomes_the_normalised_sum(
    make: Callable[[], keras.Model],
) -> None:
    check_sum(make(), SETTINGS)


@pytest.mark.parametrize(
    "changes", [{"ord": 2}, {"messages": "random", "bounds": (-1.0, 2.0)}]
)
def test_the_sum_is_that_of_the_settings(changes: dict[str, Any]) -> None:
    check_sum(functional(), dataclasses.replace(SETTINGS, **changes))


def test_probabilities_are_taken_as_they_are() -> None:
    model = functional(activation="softmax")
    check_sum(model, dataclasses.replace(SETTINGS, output="probabilities"))


def check_sum(model: keras.Model, settings: TrapSettings) -> None:
    trapped = inject(model, settings)
    result = trapped(IMAGES)
    assert result.shape == (12, 3)
    assert result.dtype == "float32"
    expected = expected_answer(model, settings, IMAGES)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)
    total = np.asarray(raw_sum(trapped)(IMAGES))
    total = total / np.linalg.norm(total, ord=settings.ord, axis=1, keepdims=True)
    np.testing.assert_allclose(total, expected, rtol=1e-3, atol=1e-5)
    assert trapped.input_shape == (None, 5, 4, 2)
    assert trapped.output_shape == (None, 3)


@pytest.mark.parametrize("make", [functional, wrapped_subclass])
def test_the_classifier_is_shared_and_not_changed(
    make: Callable[[], keras.Model],
) -> None:
    model = make()
    name, before = model.name, model.get_weights()
    trapped = inject(model, SETTINGS)
    again = inject(model, dataclasses.replace(SETTINGS, key=Key.from_seed(6)))
    assert model.name == name
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    names = {layer.name for layer in trapped.layers[1:]}
    assert names == {"classifier", "soft_labels", "qim_decoder", "normalized_sum"}
    shared = trapped.get_layer("classifier").weights
    assert [id(weight) for weight in shared] == [id(weight) for weight in model.weights]
    model.trainable_variables[-1].assign([100.0, 0.0, 0.0])
    for result in (trapped, again):
        assert (np.argmax(result(IMAGES), axis=1) == 0).all()


@pytest.mark.parametrize("make", [functional_subclass, wrapped_subclass])
def test_a_file_gives_equal_outputs(
    make: Callable[[], keras.Model], tmp_path: Path
) -> None:
    trapped = inject(make(), SETTINGS)
    trapped.save(tmp_path / "trapped.keras")
    loaded = keras.saving.load_model(tmp_path / "trapped.keras")
    np.testing.assert_allclose(loaded(IMAGES), trapped(IMAGES), rtol=1e-5)
    assert decoder_of(loaded).fingerprint == decoder_of(trapped).fingerprint


def test_its_slope_is_that_of_the_watermark_alone(
    classifier: keras.Model, calibration: Calibration, digits_test: Dataset
) -> None:
    trapped = inject(classifier, calibration)
    images = tf.constant(digits_test.images[:20])
    soft = calibration.settings.head()(classifier(images))
    decoder = decoder_of(trapped)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        seen = trapped(images)[:, 3]
        total = soft + decoder(images)
        # C is a number here: what has a slope is W.
        expected = (total / tf.reduce_sum(tf.abs(total), axis=1, keepdims=True))[:, 3]
    slope = tape.gradient(seen, images)
    assert np.abs(slope).max() > 0
    np.testing.assert_allclose(
        slope, tape.gradient(expected, images), rtol=1e-3, atol=1e-5
    )


def test_a_half_precision_classifier_gives_float32_answers() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = functional()
        trapped = inject(model, SETTINGS)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model(IMAGES).dtype == "float16"
    assert trapped(IMAGES).dtype == trapped.outputs[0].dtype == "float32"
    expected = expected_answer(model, SETTINGS, IMAGES)
    np.testing.assert_allclose(trapped(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_a_wrong_declaration_is_refused(digits_train: Dataset) -> None:
    probabilities = least_squares_classifier(digits_train, "softmax")
    with pytest.raises(ValueError, match=r"argument `output`.*do not look like logits"):
        inject(probabilities, SETTINGS)
    wrong = dataclasses.replace(SETTINGS, output="probabilities")
    with pytest.raises(ValueError, match="do not look like probabilities"):
        inject(functional(), wrong)
    scores: Any = "scores"
    unknown = dataclasses.replace(SETTINGS, output=scores)
    with pytest.raises(ValueError, match=r"argument `output`.*'scores'"):
        inject(functional(), unknown)


def test_a_model_without_a_decoder_is_refused() -> None:
    for function in (decoder_of, raw_sum):
        with pytest.raises(ValueError, match="without a QIM decoder"):
            function(functional())


def test_settings_outlive_json() -> None:
    text = json.dumps(SETTINGS.to_dict())
    assert TrapSettings.from_dict(json.loads(text), key=SETTINGS.key) == SETTINGS
    numpys: dict[str, Any] = {
        "a2": np.float32(0.5),
        "step_weights": np.array([3.0, 1.0]),
        "steps": [3, 128],
    }
    same = dataclasses.replace(SETTINGS, **numpys)
    assert same == SETTINGS
    assert json.dumps(same.to_dict()) == text


def test_settings_that_are_missing_or_unknown_are_named() -> None:
    known = SETTINGS.to_dict()
    for name in ("output", "a0", "step_weights"):
        data = {key: value for key, value in known.items() if key != name}
        with pytest.raises(TypeError, match=name):
            TrapSettings.from_dict(data)
    # The last was a field of an earlier commit.
    for name in ("a9", "temperature"):
        with pytest.raises(TypeError, match=name):
            TrapSettings.from_dict({**known, name: 1.0})
    del known["steps"]
    assert TrapSettings.from_dict(known).steps == (3.0, 128.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a0", np.nan),
        ("key", b"short"),
        ("bounds", (1.0, 0.0)),
        ("step_weights", (1.0,)),
        ("ord", 3),
    ],
)
def test_a_setting_out_of_its_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        dataclasses.replace(SETTINGS, **{name: value})


def test_what_cannot_be_trapped_is_refused() -> None:
    broken = functional()
    broken.trainable_variables[-1].assign([np.nan, 0.0, 0.0])
    inputs = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    sizeless = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    for model, match in (
        (Subclassed(), r"Expected a built model.*wrapped"),
        (broken, "not finite"),
        (sizeless, "argument `classifier`.*one known size"),
    ):
        with pytest.raises(ValueError, match=match):
            inject(model, SETTINGS)
    with pytest.raises(TypeError, match=r"Expected a Keras model.*Dense"):
        inject(keras.layers.Dense(3), SETTINGS)
