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


@pytest.mark.parametrize("activation", ["softmax", ops.softmax, tf.nn.softmax])
def test_a_dense_layers_softmax_is_found_in_every_form(activation: Any) -> None:
    image = keras.Input(SHAPE)
    dense = layers.Dense(2, activation=activation, use_bias=False)
    model = keras.Model(image, layers.Identity()(dense(layers.Flatten()(image))))
    images = some_images(5)
    dense.set_weights([FAR])
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, linear(FAR)(images), rtol=1e-6)


def test_a_softmax_of_half_precision_is_taken_off_before_it_rounds() -> None:
    half = layers.Softmax(dtype="float16")
    model = ending(lambda z: layers.Activation("linear", dtype="float32")(half(z / 99)))
    images = some_images(5)
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, linear(FAR)(images) / 99, rtol=1e-6)


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


@pytest.mark.parametrize("kind", [*KNOWN, "hidden"])
def test_a_sequential_models_softmax_is_taken_off_too(kind: str) -> None:
    twin, images = with_softmax(TWO_CLASSES, kind), some_images(3)
    fresh = [type(layer).from_config(layer.get_config()) for layer in twin.layers[1:]]
    model = keras.Sequential([keras.Input(SHAPE), *fresh])
    model.set_weights(twin.get_weights())
    logits = logits_model(model, "probabilities")(images)
    expected = tf.nn.log_softmax(linear(TWO_CLASSES)(images))
    np.testing.assert_allclose(tf.nn.log_softmax(logits), expected, rtol=1e-4)


def test_a_bias_and_a_name_are_kept_with_the_weights() -> None:
    image = keras.Input(SHAPE)
    dense = keras.layers.Dense(2, activation="softmax", name="scores")
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    dense.set_weights([TWO_CLASSES, np.array([5.0, -3.0], np.float32)])
    images = some_images(3)

    logits = logits_model(model, "probabilities")

    expected = linear(TWO_CLASSES)(images).numpy() + np.array([[5.0, -3.0]])
    np.testing.assert_allclose(logits(images), expected, rtol=1e-5)
    assert logits.layers[-1].name == "scores"


@pytest.mark.parametrize("kind", ["dense", "hidden"])
def test_the_model_itself_stays_as_it_was(kind: str) -> None:
    model, images = with_softmax(TWO_CLASSES, kind), some_images(3)
    before = model(images).numpy()
    parts = list(model.layers)

    logits_model(model, "probabilities")

    np.testing.assert_array_equal(model(images), before)
    assert model.layers == parts
    np.testing.assert_allclose(before.sum(axis=1), 1, rtol=1e-6)


def test_a_dense_layer_with_another_activation_is_not_taken_for_a_softmax() -> None:
    image = keras.Input(SHAPE)
    dense = keras.layers.Dense(2, activation="sigmoid", use_bias=False)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    dense.set_weights([TWO_CLASSES])
    images = some_images(3)
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, np.log(model(images)), rtol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_logarithm_of_zero_and_its_gradient_are_finite(policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = with_softmax(TWO_CLASSES * np.float32(1e4), "hidden")
        logits = logits_model(model, "probabilities")
    finally:
        keras.config.set_dtype_policy(before)
    images = tf.constant(some_images(4))
    assert (model(images).numpy() == 0).any(axis=1).all()

    with tf.GradientTape() as tape:
        tape.watch(images)
        result = logits(images)
    gradient = tape.gradient(result, images)

    assert np.isfinite(result).all()
    assert np.isfinite(gradient).all()
    assert (result.numpy().min(axis=1) < -60).all()


def preprocessed(classifier: keras.Model) -> keras.Model:
    image = keras.Input(SHAPE)
    halves = keras.layers.Rescaling(0.5)(image)
    return keras.Model(image, classifier(halves))


def sequential(classifier: keras.Model) -> keras.Model:
    return keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Rescaling(0.5), classifier]
    )


@pytest.mark.parametrize("wrap", [preprocessed, sequential])
@pytest.mark.parametrize(("kind", "depth"), [("dense", 1), ("softmax", 2)])
def test_the_softmax_of_a_model_within_is_taken_off(
    wrap: Callable[[keras.Model], keras.Model], kind: str, depth: int
) -> None:
    model, images = with_softmax(TWO_CLASSES * np.float32(1e4), kind), some_images(5)
    for _ in range(depth):
        model = wrap(model)

    logits = logits_model(model, "probabilities")(images)

    expected = linear(TWO_CLASSES * np.float32(1e4))(images * 0.5**depth)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KNOWN)
def test_a_layer_that_another_model_has_called_before_is_taken_off_too(
    kind: str,
) -> None:
    within = with_softmax(TWO_CLASSES, kind)
    first, second = preprocessed(within), preprocessed(preprocessed(within))
    images = some_images(3)
    for model, scale in ((first, 0.5), (second, 0.25)):
        logits = logits_model(model, "probabilities")(images)
        expected = linear(TWO_CLASSES)(images * scale)
        np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_a_softmax_layer_that_another_model_has_called_before_is_taken_off() -> None:
    softmax, other = keras.layers.Softmax(), keras.Input((2,))
    keras.Model(other, softmax(other))
    plain, images = linear(TWO_CLASSES), some_images(3)
    model = keras.Model(plain.inputs[0], softmax(plain.outputs[0]))
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, plain(images), rtol=1e-6)


def test_a_wrapped_softmax_in_half_precision_has_a_finite_gradient() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = preprocessed(with_softmax(TWO_CLASSES * np.float32(10), "dense"))
    finally:
        keras.config.set_dtype_policy(before)
    images = tf.constant(some_images(20))
    logits = logits_model(model, "probabilities")
    with tf.GradientTape() as tape:
        tape.watch(images)
        result = logits(images)
    gradient = tape.gradient(result, images)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()


class Doubled(keras.Model):
    """A functional model that does more than its graph tells."""

    def call(self, *arguments: Any, **more: Any) -> tf.Tensor:
        return super().call(*arguments, **more) / 2 + 0.25


@pytest.mark.parametrize("wrap", [lambda model: model, sequential])
def test_a_subclass_is_not_looked_into(
    wrap: Callable[[keras.Model], keras.Model],
) -> None:
    plain = with_softmax(TWO_CLASSES, "dense")
    model, images = wrap(Doubled(plain.input, plain.output)), some_images(3)
    logits = logits_model(model, "probabilities")
    np.testing.assert_allclose(logits(images), np.log(model(images)), rtol=1e-5)
    assert logits_model(model, "probabilities") is logits


class Compiled(keras.Model):
    """A functional model that is trained in another way, but called as its graph."""

    def train_step(self, data: Any) -> dict[str, Any]:
        raise NotImplementedError


@pytest.mark.parametrize("wrap", [lambda model: model, preprocessed])
def test_a_subclass_that_is_called_as_any_model_is_looked_into(
    wrap: Callable[[keras.Model], keras.Model],
) -> None:
    # Too far apart to be read from the logarithm of a probability.
    plain = with_softmax(TWO_CLASSES * np.float32(1e4), "dense")
    model, images = wrap(Compiled(plain.input, plain.output)), some_images(3)
    logits = logits_model(model, "probabilities")(images)
    assert (np.ptp(logits, axis=1) > 1000).all()
    np.testing.assert_allclose(tf.nn.softmax(logits), model(images), atol=1e-6)


class Cosine(keras.layers.Dense):
    """A head that compares directions."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        kernel = tf.math.l2_normalize(tf.convert_to_tensor(self.kernel), axis=0)
        return tf.nn.softmax(9 * tf.math.l2_normalize(inputs, axis=1) @ kernel)


class Tempered(keras.layers.Softmax):
    """A softmax of some temperature."""

    def call(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        return super().call(inputs / 3, mask)


class Flipped(keras.layers.Activation):
    """A softmax of the other way round."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return super().call(-inputs)


@pytest.mark.parametrize(
    "last",
    [
        lambda: Cosine(2, activation="softmax"),
        Tempered,
        lambda: Flipped("softmax"),
    ],
)
def test_a_layer_of_a_subclass_is_not_taken_for_a_softmax(
    last: Callable[[], keras.layers.Layer],
) -> None:
    plain, images = linear(TWO_CLASSES), some_images(3)
    model = keras.Model(plain.input, last()(plain.output))
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, np.log(model(images)), rtol=1e-4)


def test_a_quantized_layer_is_not_taken_for_a_dense_one() -> None:
    model, images = with_softmax(TWO_CLASSES, "dense"), some_images(3)
    model.layers[-1].quantize("int8")
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, np.log(model(images)), rtol=1e-5)


def test_the_softmax_of_a_lured_classifier_is_taken_off() -> None:
    target = tiny_target(ends="softmax")
    kernel, bias = target.layers[-1].get_weights()
    target.layers[-1].set_weights([kernel * 1e4, bias])
    lured = LuredClassifier(target, tiny_lure())
    images = np.random.default_rng(0).random((3, *lured.input_shape[1:]), np.float32)
    logits = logits_model(lured, "probabilities")(images)
    assert (np.ptp(logits, axis=1) > 100).all()
    np.testing.assert_allclose(tf.nn.softmax(logits), lured(images), atol=1e-6)


class WithHead(keras.Model):
    """Has a layer of a name that a lured classifier has for a method."""


def test_a_layer_named_to_logits_is_not_asked_for_them() -> None:
    plain, images = with_softmax(TWO_CLASSES, "dense"), some_images(3)
    model = WithHead(plain.input, plain.output)
    model.to_logits = keras.layers.Dense(2)
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, linear(TWO_CLASSES)(images), rtol=1e-6)
