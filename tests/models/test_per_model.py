import gc
import weakref
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras_traps.attacks.compiled import once_per_model

from keras_traps.attacks import create
from keras_traps.models.inference import predict
from keras_traps.models.input_gradients import input_gradient_model
from keras_traps.models.logits import logits_model
from keras_traps.models.per_model import PerModel

SHAPE = (2, 3, 1)
IMAGES = np.random.default_rng(0).random((6, *SHAPE), np.float32)

Change = Callable[[keras.Model], None]


def network(last: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    within = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu")])
    return keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), within, layers.Dense(3, activation=last)]
    )


def enable_lora(model: keras.Model) -> None:
    dense = model.layers[-1]
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.full(dense.lora_kernel_b.shape, 3.0))


def quantize(model: keras.Model) -> None:
    # Coarse enough to be seen.
    kernel = model.layers[-1].get_weights()[0]
    kernel[0] *= 1e3
    model.layers[-1].kernel.assign(kernel)
    model.layers[-1].quantize("int8")


def add(model: keras.Model) -> None:
    model.add(layers.Rescaling(-1.0))


def pop(model: keras.Model) -> None:
    model.pop()
    model.add(layers.Dense(3))


def change_activation(model: keras.Model) -> None:
    model.layers[-1].activation = keras.activations.tanh


def change_activation_within(model: keras.Model) -> None:
    model.layers[1].layers[0].activation = keras.activations.elu


CHANGES: list[Change] = [
    enable_lora,
    quantize,
    add,
    pop,
    change_activation,
    change_activation_within,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_answers_as_it_is_now(change: Change) -> None:
    model = network()
    before = predict(model, IMAGES)
    change(model)
    after = predict(model, IMAGES)
    np.testing.assert_allclose(after, model(IMAGES), rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_attacked_as_it_is_now(change: Change) -> None:
    attack = create("BIM", eps=0.3, eps_iter=0.1, nb_iter=3)
    model, twin = network(), network()
    labels = model(IMAGES).numpy().argmax(axis=1)
    attack(model, IMAGES, labels)
    change(model)
    change(twin)
    twin.set_weights(model.get_weights())

    result = attack(model, IMAGES, labels)

    np.testing.assert_array_equal(result.images, attack(twin, IMAGES, labels).images)
    own = model(result.images).numpy().argmax(axis=1)
    np.testing.assert_array_equal(result.answers, own)


@pytest.mark.parametrize("change", [enable_lora, quantize, change_activation_within])
def test_a_changed_model_has_the_logits_that_it_has_now(change: Change) -> None:
    model = network("softmax")
    old = logits_model(model, "probabilities")
    change(model)
    new = logits_model(model, "probabilities")
    assert new is not old
    np.testing.assert_allclose(
        keras.ops.softmax(new(IMAGES)), model(IMAGES), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("change", [enable_lora, add, change_activation])
def test_the_gradients_of_a_changed_model_are_those_it_has_now(change: Change) -> None:
    model = network()
    input_gradient_model(model)
    change(model)
    new = input_gradient_model(model)
    np.testing.assert_allclose(new(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)


def test_new_values_fitting_and_frozen_layers_change_nothing() -> None:
    model, kept = network(), PerModel[object]()
    first = kept.get(model, object)
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(IMAGES, np.zeros((6, 3)), verbose=0)
    model.layers[-1].trainable = False
    model.set_weights([2 * weight for weight in model.get_weights()])
    assert kept.get(model, object) is first


def test_a_layer_within_a_wrapper_is_looked_at() -> None:
    image = keras.Input((4, 3))
    wrapper = layers.TimeDistributed(layers.Dense(2))
    model, kept = keras.Model(image, wrapper(image)), PerModel[object]()
    first = kept.get(model, object)
    wrapper.layer.activation = keras.activations.tanh
    assert kept.get(model, object) is not first


class Named(layers.Layer):
    """Has a method of the name that others have for an attribute."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs

    def activation(self) -> None:
        raise NotImplementedError


def test_a_method_named_activation_is_no_change() -> None:
    image = keras.Input((3,))
    model, kept = keras.Model(image, Named()(image)), PerModel[object]()
    assert kept.get(model, object) is kept.get(model, object)


def test_a_layer_in_the_place_of_one_that_is_gone_is_another() -> None:
    model, kept = network(), PerModel[object]()
    for _ in range(3):
        first = kept.get(model, object)
        model.pop()
        gc.collect()
        model.add(layers.Dense(3))
        assert kept.get(model, object) is not first


def test_what_is_kept_goes_with_the_model_and_holds_none_of_its_weights() -> None:
    model, kept = network(), PerModel[object]()
    made = weakref.ref(kept.get(model, Named))
    weights = [weakref.ref(weight) for weight in model.weights]
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    # What went with the model is known to be of no use only now.
    gc.collect()
    assert made() is None
    assert all(weight() is None for weight in weights)


def test_parts_of_an_attack_are_dropped_with_the_old_model() -> None:
    model = network()
    first = once_per_model(model, "part", lambda _: [0])
    enable_lora(model)
    assert once_per_model(model, "part", lambda _: [0]) is not first
