from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.models.inference import predict
from keras_traps.models.outputs import (
    chance_of,
    check_answers,
    check_classifier,
    check_exclusive,
    check_on_noise,
    check_outputs,
    is_near_chance,
    subtract_row_maximum,
)

LOGITS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
PROBABILITIES = np.asarray(tf.nn.softmax(LOGITS))


def classifier(*outputs: int) -> keras.Model:
    inputs = keras.Input((4, 4))
    flat = layers.Flatten()(inputs)
    heads = [layers.Dense(units)(flat) for units in outputs]
    return keras.Model(inputs, heads[0] if len(heads) == 1 else heads)


def test_a_sequential_model_is_a_classifier_once_it_is_built() -> None:
    model = keras.Sequential([layers.Flatten(), layers.Dense(3)])
    with pytest.raises(ValueError, match="Expected a built model"):
        check_classifier(model, "logits")
    model(np.zeros((2, 4, 4), np.float32))
    assert check_classifier(model, "logits") == 3


def test_a_subclassed_model_is_told_what_to_do() -> None:
    class Subclassed(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    model = Subclassed()
    model(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"wrapped by `keras.Model\(inputs, model"):
        check_classifier(model, "logits")


@pytest.mark.parametrize("thing", [None, layers.Dense(3)])
def test_what_is_no_model_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=f"Keras model.*{type(thing).__name__}"):
        check_classifier(thing, "logits")


def of(*sizes: int | None) -> tuple[Any, Any]:
    return (image := keras.Input(sizes)), image


IMAGE, TWO = keras.Input((4,)), [keras.Input((3,)), keras.Input((3,))]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (keras.Model(TWO, layers.Add()(TWO)), "one input and one output"),
        (classifier(3, 3), "one output.*'functional.*' with 2 outputs"),
        (keras.Model(IMAGE, {"classes": layers.Dense(3)(IMAGE)}), "one output"),
        (keras.Model(*of(4, 4, 3)), r"shape \(batch, num_classes\)"),
        (keras.Model(*of(None)), r"images of one known size"),
        (keras.Model(IMAGE, layers.Dense(3, "sigmoid")(IMAGE)), "3 sigmoids"),
    ],
)
def test_what_has_not_one_row_of_classes_for_an_image_is_refused(
    model: keras.Model, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        check_classifier(model, "logits")


@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_images_that_are_not_floating_point_are_refused(dtype: str) -> None:
    inputs = keras.Input((4,), dtype=dtype)
    model = keras.Model(inputs, layers.Dense(3)(layers.Rescaling(0.5)(inputs)))
    with pytest.raises(ValueError, match=f"argument `target`.*{dtype}"):
        check_classifier(model, "logits", name="target")


@pytest.mark.parametrize("output", ["Logits", None])
def test_an_unknown_output_is_refused(output: Any) -> None:
    with pytest.raises(ValueError, match=r"one of .'logits', 'probabilities'."):
        check_classifier(classifier(3), output)


@pytest.mark.parametrize(
    "outputs",
    [
        1e-3 * LOGITS,
        np.zeros((3, 4), np.float32),
        np.full((3, 4), 5, np.float32),
        # One row that sums to 1 proves nothing.
        np.concatenate([PROBABILITIES[:1], LOGITS]),
    ],
)
def test_logits_are_logits(outputs: Any) -> None:
    check_outputs(outputs, "logits")
    with pytest.raises(ValueError, match=r"do not look like probabilities.*sum"):
        check_outputs(outputs, "probabilities")


@pytest.mark.parametrize(
    "outputs",
    [
        PROBABILITIES.astype(np.float16).astype(np.float32),
        np.asarray(tf.cast(tf.cast(PROBABILITIES, tf.bfloat16), tf.float32)),
        np.full((3, 1000), 1e-3, np.float32),
    ],
)
def test_probabilities_are_probabilities(outputs: Any) -> None:
    check_outputs(outputs, "probabilities")
    with pytest.raises(ValueError, match=r"argument `output`.*do not look like logits"):
        check_outputs(outputs, "logits")


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_outputs_that_are_not_finite_are_refused(bad: float) -> None:
    outputs = PROBABILITIES.copy()
    outputs[-1, -1] = bad
    with pytest.raises(ValueError, match="not finite"):
        check_outputs(outputs, "logits")


def test_the_row_maximum_becomes_0_and_the_softmax_stays() -> None:
    result = np.asarray(subtract_row_maximum(tf.constant(LOGITS)))
    np.testing.assert_array_equal(result.max(axis=1), 0)
    np.testing.assert_allclose(tf.nn.softmax(result), PROBABILITIES, rtol=1e-6)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, subtract_row_maximum(inputs))
    np.testing.assert_array_equal(model(LOGITS), result)


def test_noise_tells_logits_from_probabilities() -> None:
    inputs = keras.Input((4, 4, 1))
    pooled = layers.GlobalAveragePooling2D()(inputs)
    logits = keras.Model(inputs, layers.Dense(3)(pooled))
    sure = keras.Model(inputs, layers.Dense(3, "softmax")(pooled))
    for declared in ("logits", None):
        assert check_on_noise(logits, declared) == "logits"
    assert check_on_noise(sure, None) == "probabilities"
    with pytest.raises(ValueError, match="do not look like probabilities"):
        check_on_noise(logits, "probabilities")
    with pytest.raises(ValueError, match="do not look like logits"):
        check_on_noise(sure, "logits")


def test_one_of_several_outputs_has_to_be_chosen() -> None:
    inputs = keras.Input((4, 4, 1))
    flat = layers.Flatten()(inputs)
    outputs = [layers.Dense(3)(flat), layers.Dense(2)(flat)]
    named = dict(zip("ab", outputs, strict=True))
    for several in (outputs, named, {"a": outputs[0]}):
        with pytest.raises(ValueError, match=r"one output.*model\.outputs\[0\]"):
            check_classifier(keras.Model(inputs, several), "logits")


def test_a_model_that_answers_with_a_list_of_one_is_asked_as_any_other() -> None:
    inputs = keras.Input((4, 4, 1))
    answer = layers.Dense(3)(layers.Flatten()(inputs))
    plain, listed = keras.Model(inputs, answer), keras.Model(inputs, [[answer]])
    assert check_classifier(listed, "logits") == 3
    images = np.random.default_rng(0).random((5, 4, 4, 1), np.float32)
    np.testing.assert_array_equal(predict(listed, images), predict(plain, images))


def test_chance_is_what_as_many_answers_by_lot_are_worth() -> None:
    labels = np.asarray([0, 0, 0, 1])
    assert chance_of(labels, labels, 2) == 0.625
    assert chance_of(np.asarray([0, 0, 0, 0]), labels, 2) == 0.75
    assert is_near_chance(0.159, 0.1)
    assert not is_near_chance(0.35, 0.1)
    assert not is_near_chance(1.0, 1.0)


def test_a_few_values_of_one_output_may_be_logits_between_0_and_1() -> None:
    few = np.array([[0.2], [0.7]], np.float32)
    check_outputs(few, "logits")
    check_outputs(few, "probabilities")
    with pytest.raises(ValueError, match="do not look like probabilities"):
        check_outputs(few * 3, "probabilities")


def test_several_independent_sigmoids_are_known_by_their_numbers() -> None:
    with pytest.raises(ValueError, match=r"argument `classifier`.*multi-label"):
        check_exclusive(np.array([[0.2, 0.9, 0.8]], np.float32), "classifier")
    check_exclusive(PROBABILITIES, "classifier")
    check_exclusive(LOGITS, "classifier")
    hidden = keras.Model(IMAGE, keras.ops.sigmoid(layers.Dense(3)(IMAGE)))
    with pytest.raises(ValueError, match="3 sigmoids"):
        check_classifier(hidden, "logits")


def test_of_images_of_one_class_most_may_be_right() -> None:
    labels = np.zeros(100, int)
    answers = np.where(np.arange(100) < 97, 0, 1)
    assert check_answers(answers, labels, 3, (0.0, 1.0)) == 0.97
    with pytest.raises(ValueError, match=r"than chance, 33\.3%"):
        check_answers(1 - answers, labels, 3, (0.0, 1.0))
