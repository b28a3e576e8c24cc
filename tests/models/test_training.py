import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_traps.datasets import Dataset, load
from keras_traps.layers import RandomNoise
from keras_traps.models import train


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits", "test")


def linear(
    classes: int = 10, activation: str | None = None, side: int = 8
) -> keras.Model:
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((side, side, 1))
    x = layers.Dropout(0.1)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(classes, activation=activation)(x))


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.01), ("sgd", 0.05)])
def test_the_loss_falls(data: Dataset, optimizer: Any, rate: float) -> None:
    history = train(
        linear(), data, epochs=5, learning_rate=rate, optimizer=optimizer
    ).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["accuracy"][-1] > 0.6


def test_the_loss_is_cross_entropy_from_logits(data: Dataset) -> None:
    model = linear()
    logits = np.asarray(model(data.images))
    exponents = np.exp(logits)
    picked = exponents[np.arange(len(data)), data.labels]
    expected = -np.log(picked / exponents.sum(axis=1)).mean()
    # A vanishing step leaves the model as it is; dropout is off for validation.
    history = train(
        model, data, epochs=1, learning_rate=1e-12, validation_split=0.998
    ).history
    assert history["val_loss"][0] == pytest.approx(expected, rel=0.02)


def test_the_same_seed_gives_the_same_training(data: Dataset) -> None:
    runs = [train(linear(), data, epochs=2, seed=seed).history for seed in (5, 5, 6)]
    first, again, other = (run["loss"] + run["val_loss"] for run in runs)
    assert first == pytest.approx(again)
    assert first != pytest.approx(other)


def test_validation_images_are_drawn_from_all_classes() -> None:
    train_data = load("digits")
    order = np.argsort(train_data.labels, kind="stable")
    ordered = Dataset(
        "digits",
        "train",
        train_data.pixels[order],
        train_data.labels[order],
        10,
        train_data.class_names,
        "sorted",
    )
    history = train(linear(), ordered, epochs=8, learning_rate=0.01).history
    # Were they the last ones, nines alone, none would have been seen in training.
    assert history["val_accuracy"][-1] > 0.8


def test_no_validation_is_possible(data: Dataset) -> None:
    history = train(linear(), data, epochs=1, validation_split=0).history
    assert set(history) == {"loss", "accuracy"}


def test_compiled_as_asked(data: Dataset) -> None:
    model = linear()
    train(
        model,
        data.take(20),
        epochs=1,
        learning_rate=0.05,
        optimizer="sgd",
        weight_decay=1e-6,
    )
    optimizer = model.optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert float(optimizer.learning_rate) == pytest.approx(0.05)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    assert optimizer.weight_decay == 1e-6
    assert model.jit_compile is False


class Blindfold(layers.Layer):
    """Leaves nothing of the images, in training alone."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return keras.ops.zeros_like(inputs) if training else inputs


def test_what_augments_is_seen_by_training_alone(data: Dataset) -> None:
    model = linear()
    kernel = model.get_weights()[0]
    with_it = train(model, data, epochs=3, augment=Blindfold()).history
    # Black images move no kernel, and validation sees the images as they are.
    np.testing.assert_array_equal(model.get_weights()[0], kernel)
    assert with_it["loss"][-1] == pytest.approx(np.log(10), rel=0.05)
    images = data.take(len(data), seed=0).images[-int(0.1 * len(data)) :]
    labels = data.take(len(data), seed=0).labels[-int(0.1 * len(data)) :]
    right = np.asarray(model(images)).argmax(axis=1) == labels
    assert with_it["val_accuracy"][-1] == pytest.approx(right.mean(), abs=0.02)


def test_with_noise_the_same_seed_gives_the_same_training(data: Dataset) -> None:
    runs = [
        train(linear(), data, epochs=1, augment=RandomNoise(0.5, seed=seed)).history
        for seed in (0, 0, 1)
    ]
    first, again, other = (run["loss"][0] for run in runs)
    assert first == pytest.approx(again)
    assert first != pytest.approx(other)


@pytest.mark.parametrize("augment", [None, RandomNoise(0.1)])
@pytest.mark.parametrize("split", [0.0, 0.1])
def test_a_falling_rate_falls_over_all_steps(
    data: Dataset, split: float, augment: keras.Layer | None
) -> None:
    model = linear()
    train(
        model,
        data,
        epochs=2,
        batch_size=50,
        learning_rate=0.05,
        falling=True,
        augment=augment,
        validation_split=split,
    )
    steps = 2 * math.ceil(math.floor((1 - split) * len(data)) / 50)
    assert int(model.optimizer.iterations) == steps
    rate = keras.optimizers.serialize(model.optimizer)["config"]["learning_rate"]
    assert rate["class_name"] == "CosineDecay"
    assert rate["config"]["initial_learning_rate"] == 0.05
    assert rate["config"]["decay_steps"] == steps
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-6)


def test_a_model_is_left_compiled_and_without_what_augments(data: Dataset) -> None:
    model = linear()
    layers_before = list(model.layers)
    train(model, data, epochs=1, augment=RandomNoise(0.1))
    assert model.layers == layers_before
    assert np.isfinite(model.evaluate(data.images, data.labels, verbose=0)).all()
    model.fit(data.images, data.labels, epochs=1, verbose=0)


def test_what_augments_may_have_the_models_name(data: Dataset) -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)], name="same"
    )
    augment = keras.Sequential([RandomNoise(0.1)], name="same")
    history = train(model, data, epochs=1, augment=augment).history
    assert np.isfinite(history["loss"]).all()


def test_half_precision_has_its_loss_scaled_behind_what_augments(data: Dataset) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = linear()
    finally:
        keras.config.set_dtype_policy("float32")
    train(model, data, epochs=1, augment=RandomNoise(0.1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    inner = model.optimizer.inner_optimizer
    assert not isinstance(inner, keras.optimizers.LossScaleOptimizer)


def test_what_a_model_has_learned_is_gone_on_from(data: Dataset) -> None:
    model = linear()
    learned = train(model, data, epochs=5, learning_rate=0.01).history["loss"][-1]
    later = train(model, data, epochs=1, learning_rate=1e-3).history["loss"][0]
    assert later < 1.1 * learned


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"optimizer": "lion"},
        {"weight_decay": -1e-6},
        {"validation_split": 1.0},
        {"validation_split": -0.1},
    ],
)
def test_a_setting_out_of_range_is_named(
    data: Dataset, setting: dict[str, Any]
) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        train(linear(), data, **({"epochs": 1} | setting))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"side": 9}, r"a model of images \(8, 8, 1\)"),
        ({"classes": 11}, "a model of 10 classes"),
        ({"activation": "softmax"}, "returns logits"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    data: Dataset, model: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        train(linear(**model), data, epochs=1)
