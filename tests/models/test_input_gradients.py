from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps.models import madry_mnist_cnn
from keras_traps.models.input_gradients import input_gradient_model


def gradients(model: keras.Model, images: tf.Tensor, variables: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        tape.watch([images, *variables])
        loss = tf.reduce_sum(tf.sin(model(images, training=False)))
    return tape.gradient(loss, [images, *variables])


def assert_same_gradients(
    view: keras.Model, model: keras.Model, images: tf.Tensor, rtol: float
) -> None:
    values = [variable.value for variable in model.trainable_variables]
    found, expected = (gradients(one, images, values) for one in (view, model))
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == other.dtype
        np.testing.assert_allclose(own, other, rtol=rtol, atol=1e-5)


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
    assert_same_gradients(view, model, images, rtol)


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


@pytest.mark.parametrize(
    ("size", "padding", "use_bias"),
    [
        (1, "valid", False),
        (3, "valid", True),
        (4, "same", True),
        ((5, 2), "same", False),
    ],
)
def test_a_convolution_of_one_channel_has_its_own_gradient(
    size: Any, padding: str, use_bias: bool
) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 11, 1))
    settings = {"use_bias": use_bias, "bias_initializer": "random_normal"}
    layer = layers.Conv2D(4, size, padding=padding, activation="relu", **settings)
    model = keras.Model(inputs, layers.Flatten()(layer(inputs)))
    view = input_gradient_model(model)
    assert view.layers[1] is not layer
    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((3, 8, 11, 1), np.float32))
    np.testing.assert_array_equal(view(images), model(images))
    assert_same_gradients(view, model, images, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "channels"),
    [({"strides": 2}, 1), ({"dilation_rate": 2}, 1), ({}, 3)],
)
def test_other_convolutions_are_left(settings: dict[str, Any], channels: int) -> None:
    inputs = keras.Input((8, 8, channels))
    outputs = layers.Conv2D(2, 3, **settings)(inputs)
    model = keras.Model(inputs, layers.Flatten()(outputs))
    view = input_gradient_model(model)
    assert view.layers[1] is model.layers[1]
