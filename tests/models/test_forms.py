import gc
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.layers import QIMDecoder
from keras_traps.models import wrap
from keras_traps.models.forms import (
    check_first_layers,
    find_bounds,
    in_standard_form,
    standard_form,
)

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (4, 6, 5, 3)).astype(np.float32)


def classifier(
    *first: layers.Layer, shape: tuple[int, ...] = (6, 5, 3), outputs: int = 3
) -> keras.Model:
    image = keras.Input(shape)
    hidden: Any = image
    for layer in first:
        hidden = layer(hidden)
    return keras.Model(image, layers.Dense(outputs)(layers.Flatten()(hidden)))


def test_a_wrapped_model_does_what_preprocess_input_does(tmp_path: Path) -> None:
    model = classifier()
    means = [-103.939, -116.779, -123.68]
    wrapped = wrap(model, offset=means, flip_channels=True)
    expected = model(keras.applications.resnet50.preprocess_input(LEVELS.copy()))
    np.testing.assert_allclose(wrapped(LEVELS), expected, rtol=1e-5, atol=1e-4)

    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.saving.load_model(tmp_path / "wrapped.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(LEVELS), wrapped(LEVELS))

    per_channel = wrap(model, scale=[0.5, 1, 2], offset=1)
    expected = model(LEVELS * np.array([0.5, 1, 2], np.float32) + 1)
    np.testing.assert_allclose(per_channel(LEVELS), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"scale": [1.0, 2.0]}, "scale"),
        ({"offset": "mean"}, "offset"),
        ({"offset": [0.0, np.nan, 0.0]}, "offset"),
        ({"flip_channels": 1}, "flip_channels"),
    ],
)
def test_what_is_no_preprocessing_is_refused(
    settings: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        wrap(classifier(), **settings)


def test_a_model_in_the_standard_form_is_taken_as_it_is() -> None:
    model = classifier()
    assert standard_form(model, "logits") is model


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0), (-3.5, 10.0)])
@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5), (30,)])
def test_the_standard_form_answers_as_the_model(
    shape: tuple[int, ...], bounds: tuple[float, float]
) -> None:
    model = classifier(shape=shape)
    unit = RNG.random((4, *shape), np.float32)
    given = unit * np.float32(bounds[1] - bounds[0]) + np.float32(bounds[0])
    made = standard_form(model, "logits", bounds)
    images = in_standard_form(given, bounds)
    assert images.ndim == 4
    np.testing.assert_allclose(images.reshape(unit.shape), unit, atol=1e-6)
    np.testing.assert_allclose(made(images), model(given), rtol=1e-4, atol=1e-4)
    # What is compiled for it is kept.
    assert standard_form(model, "logits", bounds) is made


@pytest.mark.parametrize("output", ["logits", "probabilities", "scores"])
def test_one_output_becomes_two_of_the_same_probabilities(output: Any) -> None:
    model = classifier(outputs=1)
    if output != "logits":
        model = keras.Model(model.input, keras.ops.sigmoid(model.output))
    unit = LEVELS / 255
    made = standard_form(model, output)(unit)
    given = model(unit)
    if output == "logits":
        made, given = tf.nn.softmax(made), tf.sigmoid(given)
    np.testing.assert_allclose(made, tf.concat([1 - given, given], 1), atol=1e-6)


@keras.saving.register_keras_serializable(package="test_forms")
class Shrunk(layers.Layer):
    def call(self, images: Any) -> Any:
        return images / 255


NORMALIZATION = {"mean": [123.7, 116.3, 103.5], "variance": [3410.0, 3259.0, 3291.0]}

NORMALIZED = layers.Normalization(mean=[0.48, 0.46, 0.41], variance=[0.05] * 3)


@pytest.mark.parametrize(
    ("first", "fitting"),
    [
        ([layers.Rescaling(1 / 255)], (0, 255)),
        ([layers.Rescaling(1 / 127.5, offset=-1)], (0, 255)),
        (
            [layers.RandomFlip(), layers.Resizing(6, 5), layers.Rescaling(1 / 255)],
            (0, 255),
        ),
        ([layers.Normalization(**NORMALIZATION)], (0, 255)),
        ([layers.Rescaling(1 / 255), layers.Rescaling(2.0, -1.0)], (0, 255)),
        ([layers.Normalization(mean=0.13, variance=0.31**2)], (0, 1)),
    ],
    ids=["rescaling", "to -1", "augmented", "normalization", "two", "of 0 to 1"],
)
def test_bounds_that_a_models_first_layers_do_not_fit_are_refused(
    first: list[layers.Layer], fitting: tuple[float, float]
) -> None:
    other = (0.0, 255.0) if fitting == (0, 1) else (0.0, 1.0)
    inner = classifier(*first)
    nested = keras.Model(inner.input, inner(inner.input))
    for model in (inner, nested):
        check_first_layers(model, fitting, name="classifier")
        expected = rf"argument `bounds`.*{first[-1].name}?.*bounds=\({fitting[0]}, "
        with pytest.raises(ValueError, match=expected):
            check_first_layers(model, other, name="classifier")


def test_layers_behind_the_first_weights_say_nothing_of_pixels() -> None:
    model = classifier(layers.Conv2D(3, 1), layers.Rescaling(1e-6))
    check_first_layers(model, (0.0, 1.0), name="classifier")


@pytest.mark.parametrize(
    ("first", "bounds"),
    [
        # Means alone are taken off, as by `preprocess_input` of ResNet50.
        ([layers.Rescaling(1.0, [-103.9, -116.8, -123.7])], (0.0, 255.0)),
        ([layers.Rescaling(255.0)], (0.0, 1.0)),
        # What may change the range is not looked behind.
        ([layers.Lambda(lambda x: x / 255), NORMALIZED], (0.0, 255.0)),
        ([Shrunk(), NORMALIZED], (0.0, 255.0)),
    ],
    ids=["means", "grey levels", "lambda", "own layer"],
)
def test_bounds_that_may_fit_are_taken(
    first: list[layers.Layer], bounds: tuple[float, float]
) -> None:
    check_first_layers(classifier(*first), bounds, name="classifier")


def test_arithmetic_before_a_normalization_is_not_looked_behind() -> None:
    image = keras.Input((6, 5, 3))
    pixels = NORMALIZED(image / 255.0)
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(pixels)))
    check_first_layers(model, (0.0, 255.0), name="classifier")


def test_a_pixel_that_never_changes_says_nothing_of_the_range() -> None:
    normalization = layers.Normalization()
    images = RNG.random((50, 30))
    images[:, ::3] = 0
    normalization.adapt(images)
    model = classifier(normalization, shape=(30,))
    check_first_layers(model, (0.0, 1.0), name="classifier")
    with pytest.raises(ValueError, match="argument `bounds`"):
        check_first_layers(model, (0.0, 255.0), name="classifier")


def test_bounds_are_those_of_the_traps_in_the_model() -> None:
    model = classifier()
    assert find_bounds(model) == (0.0, 1.0)
    assert find_bounds(model, (0, 255)) == (0.0, 255.0)
    # A layer of one's own may mean something else by the name.
    other = classifier(layers.Identity(name="marked"))
    other.get_layer("marked").bounds = (-5.0, 5.0)
    assert find_bounds(other) == (0.0, 1.0)
    image = keras.Input((6, 5, 3))
    trapped = keras.Model(image, QIMDecoder(3, bounds=(-1, 1))(image))
    assert find_bounds(trapped) == (-1.0, 1.0)
    with pytest.raises(ValueError, match=r"argument `bounds`.*\(-1.0, 1.0\)"):
        find_bounds(trapped, (0, 1))
    for wrong in ((1, 0), (0, 1, 2), "ab", (0, float("inf"))):
        with pytest.raises(ValueError, match="argument `bounds`"):
            find_bounds(model, wrong)  # type: ignore[arg-type]


def test_a_model_in_another_form_is_freed_with_its_owner() -> None:
    model = classifier(outputs=1)
    standard_form(model, "logits", (0.0, 255.0))
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_what_cannot_be_wrapped_is_refused() -> None:
    with pytest.raises(TypeError, match="argument `model`"):
        wrap(layers.Dense(3))
    with pytest.raises(ValueError, match="a built model"):
        wrap(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="argument `flip_channels`"):
        wrap(classifier(shape=(3, 6, 5)), flip_channels=True)
