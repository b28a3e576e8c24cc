from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_traps.luring import LuredClassifier
from keras_traps.models.logits import is_logarithm, logits_model
from tests.attacks.victims import SHAPE, TWO_CLASSES, linear, some_images, with_softmax
from tests.luring.conftest import tiny_lure, tiny_target

KNOWN = ["dense", "activation", "softmax"]

# Too far apart to be read from the logarithm of a probability.
FAR = TWO_CLASSES * np.float32(1e4)

End = Callable[[Any], Any]


def test_logits_need_no_other_model() -> None:
    model = linear(TWO_CLASSES)
    assert logits_model(model, "logits") is model


def ending(end: End) -> keras.Model:
    plain = linear(FAR)
    return keras.Model(plain.inputs[0], end(plain.outputs[0]))


def softmax(logits: Any) -> Any:
    return layers.Softmax()(logits)


FOUND: dict[str, End] = {
    "operation": ops.softmax,
    "operation over axis 1": lambda z: ops.softmax(z, axis=1),
    "function": keras.activations.softmax,
    "layer over a list": layers.Softmax(axis=[-1]),
    "layer with a name for its input": lambda z: layers.Softmax()(inputs=z),
    "activation of TensorFlow": layers.Activation(tf.nn.softmax),
    "activation that is a layer": layers.Activation(layers.Softmax()),
    "linear behind": lambda z: layers.Activation("linear", dtype="float32")(softmax(z)),
    "several behind": lambda z: layers.Identity()(layers.Identity()(softmax(z))),
}


@pytest.mark.parametrize("end", FOUND.values(), ids=FOUND)
def test_a_softmax_is_found_in_every_form(end: End) -> None:
    model, images = ending(end), some_images(5)
    logits = logits_model(model, "probabilities")
    assert not is_logarithm(logits)
    assert logits.output_shape == (None, 2)
    np.testing.assert_allclose(logits(images), linear(FAR)(images), rtol=1e-6)


MASK = np.array([[True, False]])

HIDDEN: dict[str, End] = {
    "over the batch": lambda z: layers.Softmax(axis=0)(z),
    "operation over the batch": lambda z: ops.softmax(z, axis=0),
    "of each of two": lambda z: layers.Flatten()(
        layers.Softmax()(layers.Reshape((2, 1))(z))
    ),
    "in an unknown function": layers.Activation(lambda z: tf.nn.softmax(z)),
    "before something else": lambda z: layers.Rescaling(0.5, 0.25)(softmax(z)),
    "before another activation": lambda z: layers.Activation("relu")(softmax(z)),
    "before a cast": lambda z: ops.cast(ops.cast(softmax(z), "float64"), "float32"),
}


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
@pytest.mark.parametrize("end", HIDDEN.values(), ids=HIDDEN)
def test_what_is_no_plain_softmax_at_the_end_is_left_alone(end: End) -> None:
    model, images = ending(end), some_images(3)
    logits = logits_model(model, "probabilities")
    assert is_logarithm(logits)
    expected = np.log(np.maximum(model(images), 1e-30))
    np.testing.assert_allclose(logits(images), expected, rtol=1e-5, atol=1e-6)


def test_what_a_mask_takes_out_stays_out() -> None:
    model, images = ending(lambda z: layers.Softmax()(z, MASK)), some_images(3)
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(tf.nn.softmax(logits), model(images), atol=1e-6)
    assert np.isfinite(logits).all()


def test_the_model_itself_stays_as_it_was() -> None:
    model, images = with_softmax(TWO_CLASSES, "dense"), some_images(3)
    before = model(images).numpy()
    parts = list(model.layers)
    logits_model(model, "probabilities")
    np.testing.assert_array_equal(model(images), before)
    assert model.layers == parts


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_logarithm_of_zero_and_its_gradient_are_finite(policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = with_softmax(FAR, "hidden")
        logits = logits_model(model, "probabilities")
    finally:
        keras.config.set_dtype_policy(before)
    images = tf.constant(some_images(4))
    assert (model(images).numpy() == 0).any(axis=1).all()
    with tf.GradientTape() as tape:
        tape.watch(images)
        result = logits(images)
    assert np.isfinite(result).all()
    assert np.isfinite(tape.gradient(result, images)).all()
    assert (result.numpy().min(axis=1) < -60).all()


def preprocessed(classifier: keras.Model) -> keras.Model:
    image = keras.Input(SHAPE)
    halves = layers.Rescaling(0.5)(image)
    return keras.Model(image, classifier(halves))


@pytest.mark.parametrize("kind", KNOWN)
def test_the_softmax_of_a_model_within_is_taken_off(kind: str) -> None:
    within = with_softmax(FAR, kind)
    first, second = preprocessed(within), preprocessed(preprocessed(within))
    third = keras.Sequential([keras.Input(SHAPE), layers.Rescaling(2.0), within])
    images = some_images(3)
    for model, scale in ((first, 0.5), (second, 0.25), (third, 2.0)):
        logits = logits_model(model, "probabilities")(images)
        expected = linear(FAR)(images * scale)
        np.testing.assert_allclose(logits, expected, rtol=1e-5)


class Doubled(keras.Model):
    """A functional model that does more than its graph tells."""

    def call(self, *arguments: Any, **more: Any) -> tf.Tensor:
        return super().call(*arguments, **more) / 2 + 0.25


@pytest.mark.parametrize("wrap", [lambda model: model, preprocessed])
def test_a_subclass_is_not_looked_into(
    wrap: Callable[[keras.Model], keras.Model],
) -> None:
    plain = with_softmax(TWO_CLASSES, "dense")
    model, images = wrap(Doubled(plain.input, plain.output)), some_images(3)
    logits = logits_model(model, "probabilities")
    np.testing.assert_allclose(logits(images), np.log(model(images)), rtol=1e-5)
    assert logits_model(model, "probabilities") is logits


class Tempered(layers.Softmax):
    """A softmax of some temperature."""

    def call(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        return super().call(inputs / 3, mask)


@pytest.mark.parametrize(
    "last",
    [
        lambda: layers.Dense(2, activation="sigmoid"),
        Tempered,
    ],
)
def test_another_layer_is_not_taken_for_a_softmax(
    last: Callable[[], layers.Layer],
) -> None:
    plain, images = linear(TWO_CLASSES), some_images(3)
    model = keras.Model(plain.input, last()(plain.output))
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, np.log(model(images)), rtol=1e-4)


def test_the_softmax_of_a_lured_classifier_is_taken_off() -> None:
    target = tiny_target(ends="softmax")
    kernel, bias = target.layers[-1].get_weights()
    target.layers[-1].set_weights([kernel * 1e4, bias])
    lured = LuredClassifier(target, tiny_lure())
    images = np.random.default_rng(0).random((3, *lured.input_shape[1:]), np.float32)
    logits = logits_model(lured, "probabilities")(images)
    assert (np.ptp(logits, axis=1) > 100).all()
    np.testing.assert_allclose(tf.nn.softmax(logits), lured(images), atol=1e-6)
