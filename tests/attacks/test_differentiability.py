import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from keras_traps.attacks.differentiability import check_differentiable
from tests.attacks.victims import SHAPE, some_images, tanh_net


class Rounded(keras.layers.Layer):
    """Has a gradient of None."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.round(inputs)


def rounding(sequential: bool = False) -> keras.Model:
    layers = [
        keras.layers.Flatten(name="flat"),
        Rounded(name="rounded"),
        keras.layers.Dense(2, name="logits"),
    ]
    if sequential:
        return keras.Sequential([keras.Input(SHAPE), *layers])
    image = outputs = keras.Input(SHAPE)
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(image, outputs)


@pytest.mark.parametrize("sequential", [True, False])
def test_the_layer_that_stops_the_gradient_is_named(sequential: bool) -> None:
    with pytest.raises(ValueError, match=r"gradient is None from layer 'rounded' on"):
        check_differentiable(rounding(sequential))


def test_the_layer_is_named_in_a_model_within_the_model() -> None:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(2.0)(image))
    inner = keras.Model(image, Rounded(name="rounded")(hidden), name="inner")
    middle = keras.Sequential([keras.Input(SHAPE), inner], name="middle")
    image = keras.Input(SHAPE)
    before = keras.layers.Rescaling(1.0, name="before")(image)
    after = keras.layers.Rescaling(1.0, name="after")(middle(before))
    model = keras.Model(image, keras.layers.Dense(2)(after))
    with pytest.raises(ValueError, match="from layer 'rounded' within 'inner' on"):
        check_differentiable(model)


def test_the_layer_is_named_that_was_first_called_elsewhere() -> None:
    rounded = Rounded(name="rounded")
    rounded(keras.Input(SHAPE))
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten(name="flat")(rounded(image))
    model = keras.Model(image, keras.layers.Dense(2)(flat))
    with pytest.raises(ValueError, match="gradient is None from layer 'rounded' on"):
        check_differentiable(model)


def test_an_operation_that_is_no_layer_is_named() -> None:
    image = keras.Input(SHAPE)
    rounded = keras.ops.round(keras.layers.Rescaling(255.0)(image))
    model = keras.Model(
        image, keras.layers.Dense(2)(keras.layers.Flatten(name="flat")(rounded))
    )
    with pytest.raises(ValueError, match="gradient is None from operation 'round"):
        check_differentiable(model)


def test_whole_numbers_end_the_gradient_where_they_are_made() -> None:
    image = keras.Input(SHAPE)
    cells = keras.layers.Discretization([0.5], name="cells")(image)
    embedded = keras.layers.Flatten()(keras.layers.Embedding(2, 3)(cells))
    model = keras.Model(image, keras.layers.Dense(2)(embedded))
    with pytest.raises(ValueError, match="gradient is None from layer 'cells' on"):
        check_differentiable(model)


def test_a_model_of_two_inputs_within_the_model_is_named_as_a_whole() -> None:
    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    both = Rounded()(keras.layers.Add()([one, two]))
    inner = keras.Model([one, two], both, name="inner")
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten(name="flat")(inner([image, image]))
    model = keras.Model(image, keras.layers.Dense(2)(flat))
    with pytest.raises(ValueError, match="gradient is None from layer 'inner' on"):
        check_differentiable(model)


def test_a_way_around_the_layer_is_enough() -> None:
    image = keras.Input(SHAPE)
    both = keras.layers.Add()([Rounded()(image), image])
    dense = keras.layers.Dense(2)(keras.layers.Flatten()(both))
    check_differentiable(keras.Model(image, dense))


def test_a_gradient_of_zero_is_a_gradient() -> None:
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(image)
    check_differentiable(keras.Model(image, keras.layers.Dense(2)(flat * 0.0)))


def test_a_model_that_tells_no_layers_is_refused_by_its_name() -> None:
    class Own(keras.Model):
        def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
            return tf.round(tf.reshape(inputs, (-1, 6)))

    image = keras.Input(SHAPE)
    model = keras.Model(image, Own(name="own")(image))
    with pytest.raises(ValueError, match="gradient is None from layer 'own' on"):
        check_differentiable(model)
    # Its layers are not what it does.
    flat = keras.layers.Flatten(name="flat")(image)
    model = Own(inputs=image, outputs=flat, name="own")
    with pytest.raises(ValueError, match=r"'own', whose gradient is None\. An attack"):
        check_differentiable(model)


def test_an_attack_refuses_it() -> None:
    with pytest.raises(ValueError, match=r"argument `model`.*layer 'rounded'"):
        create("FGSM", eps=0.1)(rounding(), some_images(2), [0, 1])
    create("FGSM", eps=0.1)(tanh_net().model, some_images(2), np.array([0, 1]))
