import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.luring import LuredClassifier
from keras_traps.models import madry_mnist_cnn
from keras_traps.models.input_gradients import input_gradient_model
from tests.luring.conftest import CLASSES, SHAPE, tiny_lure, tiny_target


def gradients(model: keras.Model, images: tf.Tensor, variables: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        tape.watch([images, *variables])
        loss = tf.reduce_sum(tf.sin(model(images, training=False)))
    return tape.gradient(loss, [images, *variables])


def sequential() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4, 3)),
            # On more than two axes, with an activation, without a bias.
            layers.Dense(5, activation="tanh"),
            layers.Flatten(),
            layers.Dense(6, use_bias=False),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("kind", ["functional", "sequential", "half"])
def test_outputs_and_gradients_are_the_models(kind: str) -> None:
    keras.utils.set_random_seed(0)
    model = sequential()
    if kind == "functional":
        model = madry_mnist_cnn(width=1 / 16)
    if kind == "half":
        inputs = keras.Input((4, 3))
        x = layers.Dense(5, dtype="mixed_bfloat16")(layers.Flatten()(inputs))
        model = keras.Model(inputs, layers.Dense(2, dtype="float32")(x))
    view = input_gradient_model(model)
    assert view is not model
    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((3, *model.input_shape[1:]), np.float32))
    rtol = 1e-2 if kind == "half" else 1e-4
    np.testing.assert_allclose(view(images), model(images), rtol=rtol, atol=1e-6)
    values = [variable.value for variable in model.trainable_variables]
    pairs = zip(
        gradients(view, images, values), gradients(model, images, values), strict=True
    )
    for found, expected in pairs:
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-5)


def test_it_shares_the_weights_and_is_made_once() -> None:
    model = sequential()
    view = input_gradient_model(model)
    assert input_gradient_model(model) is view
    for own, shared in zip(model.weights, view.weights, strict=True):
        assert own is shared
    model.set_weights([np.zeros(weight.shape) for weight in model.weights])
    np.testing.assert_array_equal(view(np.ones((1, 4, 3), np.float32)), [[0, 0]])


def test_no_kernel_is_transposed_on_the_way_back() -> None:
    model = madry_mnist_cnn(width=1 / 16)
    kernels = [weight.shape for weight in model.weights if len(weight.shape) == 2]
    images = tf.zeros((2, 28, 28, 1))
    counts = []
    for subject in (model, input_gradient_model(model)):
        graph = tf.function(
            lambda x, subject=subject: gradients(subject, x, [])[0]
        ).get_concrete_function(images)
        products = [op for op in graph.graph.get_operations() if op.type == "MatMul"]
        second = [op.inputs[1].shape for op in products if op.get_attr("transpose_b")]
        counts.append(sum(shape in kernels for shape in second))
    # Of TensorFlow's own gradient, both dense layers'.
    assert counts == [2, 0]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, (5, 2)])
@pytest.mark.parametrize("use_bias", [False, True])
def test_a_convolution_of_one_channel_has_its_own_gradient(
    size: Any, padding: str, use_bias: bool
) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 11, 1))
    layer = layers.Conv2D(
        4,
        size,
        padding=padding,
        use_bias=use_bias,
        bias_initializer="random_normal",
        activation="relu",
    )
    model = keras.Model(inputs, layers.Flatten()(layer(inputs)))
    view = input_gradient_model(model)
    assert view.layers[1] is not layer
    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((3, 8, 11, 1), np.float32))
    np.testing.assert_array_equal(view(images), model(images))
    values = [variable.value for variable in model.trainable_variables]
    pairs = zip(
        gradients(view, images, values), gradients(model, images, values), strict=True
    )
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"strides": 2}, (8, 8, 1)),
        ({"dilation_rate": 2}, (8, 8, 1)),
        ({}, (8, 8, 3)),
    ],
)
def test_other_convolutions_are_left(
    settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    inputs = keras.Input(shape)
    outputs = layers.Conv2D(2, 3, **settings)(inputs)
    model = keras.Model(inputs, layers.Flatten()(outputs))
    view = input_gradient_model(model)
    assert view.layers[1] is model.layers[1]


def test_images_of_any_size_are_taken() -> None:
    inputs = keras.Input((None, None, 1))
    outputs = layers.Conv2D(2, 3)(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(outputs))
    view = input_gradient_model(model)
    images = tf.constant(np.random.default_rng(0).random((2, 9, 7, 1), np.float32))
    (found,), (expected,) = gradients(view, images, []), gradients(model, images, [])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class Doubled(keras.Model):
    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return 2 * super().call(inputs, training=training)


def test_a_subclass_is_left_as_it_is() -> None:
    inputs = keras.Input((3,))
    model = Doubled(inputs, layers.Dense(2)(inputs))
    assert input_gradient_model(model) is model


def test_a_dense_layer_that_was_adapted_is_called_itself() -> None:
    model = sequential()
    model.layers[-1].enable_lora(1)
    view = input_gradient_model(model)
    assert view.layers[-1] is model.layers[-1]
    assert view.layers[-2] is not model.layers[-2]


def test_it_does_not_keep_the_model_alive() -> None:
    model = sequential()
    input_gradient_model(model)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


@pytest.mark.slow
def test_a_model_that_was_trained_with_fit_can_be_lured() -> None:
    # A compiled model's clone makes an optimizer, which a traced step cannot.
    target = tiny_target()
    target.trainable = True
    target.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).random((8, *SHAPE), np.float32)
    target.fit(images, np.arange(8) % CLASSES, verbose=0)
    target.trainable = False
    lured = LuredClassifier(target, tiny_lure(), output="logits")
    lured.compile(keras.optimizers.Adam(0.01))
    history = lured.fit(images, batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
