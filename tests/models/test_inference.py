import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_traps._checks import FloatArray
from keras_traps.layers import NormalizedSum, QIMDecoder
from keras_traps.models.inference import (
    PerModel,
    as_graph,
    inference_function,
    inner_layers,
    is_its_graph,
    predict,
)
from keras_traps.models.input_gradients import input_gradient_model
from keras_traps.models.logits import logits_model
from tests.attacks.victims import TWO_CLASSES, linear, some_images

IMAGES: FloatArray = np.random.default_rng(0).random((23, 4, 4, 1), np.float32)


def model() -> keras.Model:
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(3, 2)(inputs)
    x = keras.layers.Dropout(0.9)(keras.layers.BatchNormalization()(x))
    c = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(x))
    return keras.Model(inputs, NormalizedSum()([c, QIMDecoder(3, a0=-1e-4)(inputs)]))


@pytest.mark.parametrize("batch_size", [1, 22, 23, 256])
def test_ragged_batches_give_what_single_images_give(batch_size: int) -> None:
    network = model()
    singles = [np.asarray(network(image[None], training=False)) for image in IMAGES]
    result = predict(network, IMAGES, batch_size=batch_size)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.concatenate(singles), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0])
def test_batches_without_an_image_are_refused(batch_size: Any) -> None:
    with pytest.raises(ValueError, match=f"argument `batch_size`.*={batch_size}"):
        predict(model(), IMAGES, batch_size=batch_size)


def test_dropout_is_off() -> None:
    network = model()
    np.testing.assert_array_equal(predict(network, IMAGES), predict(network, IMAGES))


def test_one_trace_serves_every_batch_size() -> None:
    calls = []

    class Counting(keras.layers.Layer):
        def call(self, inputs: object) -> object:
            calls.append(inputs)
            return inputs

    inputs = keras.Input((4, 4, 1))
    network = keras.Model(inputs, Counting()(inputs))
    before = len(calls)
    for batch_size in (1, 5, 7, 23, 256):
        predict(network, IMAGES, batch_size=batch_size)
    assert len(calls) == before + 1
    assert inference_function(network) is inference_function(network)


def test_models_do_not_share_a_function() -> None:
    one, other = model(), model()
    assert inference_function(one) is not inference_function(other)
    assert (predict(one, IMAGES) != predict(other, IMAGES)).any()


def test_new_weights_are_seen_without_a_new_trace() -> None:
    network = model()
    before = predict(network, IMAGES)
    network.trainable_variables[-1].assign([9.0, 0.0, 0.0])
    after = predict(network, IMAGES)
    np.testing.assert_allclose(after, np.asarray(network(IMAGES)), rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 0.05


def test_half_precision_outputs_become_float32() -> None:
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten(dtype="mixed_float16")(inputs)
    network = keras.Model(inputs, keras.layers.Dense(3, dtype="mixed_float16")(flat))
    assert network(IMAGES).dtype == "float16"
    assert predict(network, IMAGES).dtype == np.float32


def test_a_sequential_model_is_not_tied_to_the_batch_that_built_it() -> None:
    network = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    expected = np.asarray(network(IMAGES[:7]))
    result = predict(network, IMAGES, batch_size=10)
    assert result.shape == (23, 3)
    np.testing.assert_allclose(result[:7], expected, rtol=1e-5, atol=1e-6)


def test_a_model_of_any_image_size_takes_each() -> None:
    inputs = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    network = keras.Model(inputs, pooled)
    for size in (2, 4):
        images = IMAGES[:, :size, :size]
        np.testing.assert_allclose(
            predict(network, images), images.mean(axis=(1, 2)), rtol=1e-5
        )


def test_a_model_that_nobody_holds_is_let_go() -> None:
    network = model()
    predict(network, IMAGES)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


SMALL_SHAPE = (2, 3, 1)
SMALL = np.random.default_rng(0).random((6, *SMALL_SHAPE), np.float32)

Change = Callable[[keras.Model], None]


def network(last: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    within = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu")])
    return keras.Sequential(
        [
            keras.Input(SMALL_SHAPE),
            layers.Flatten(),
            within,
            layers.Dense(3, activation=last),
        ]
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
    before = predict(model, SMALL)
    change(model)
    after = predict(model, SMALL)
    np.testing.assert_allclose(after, model(SMALL), rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("change", [enable_lora, quantize, change_activation_within])
def test_a_changed_model_has_the_logits_that_it_has_now(change: Change) -> None:
    model = network("softmax")
    old = logits_model(model, "probabilities")
    change(model)
    new = logits_model(model, "probabilities")
    assert new is not old
    np.testing.assert_allclose(
        keras.ops.softmax(new(SMALL)), model(SMALL), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("change", [enable_lora, add, change_activation])
def test_the_gradients_of_a_changed_model_are_those_it_has_now(change: Change) -> None:
    model = network()
    input_gradient_model(model)
    change(model)
    new = input_gradient_model(model)
    np.testing.assert_allclose(new(SMALL), model(SMALL), rtol=1e-5, atol=1e-6)


def test_new_values_fitting_and_frozen_layers_change_nothing() -> None:
    model, kept = network(), PerModel[object]()
    first = kept.get(model, object)
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(SMALL, np.zeros((6, 3)), verbose=0)
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


class Halving(keras.Model):
    """A functional model that does more than its graph tells."""

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        answer = super().call(inputs, training=training, mask=mask)
        return keras.tree.map_structure(lambda part: part / 2, answer)


def test_a_model_that_answers_with_a_list_becomes_one_with_a_tensor() -> None:
    plain, images = linear(TWO_CLASSES), some_images(3)
    listed = Halving([plain.input], [plain.output])
    assert not is_its_graph(listed)
    made = as_graph(listed, name="made")
    assert made.name == "made"
    np.testing.assert_allclose(made(images), plain(images) / 2, rtol=1e-6)


def test_a_plain_model_shares_its_layers() -> None:
    plain = linear(TWO_CLASSES)
    assert is_its_graph(plain)
    assert as_graph(plain, name="made").layers[-1] is plain.layers[-1]


def test_the_layers_of_a_model_within_follow_it() -> None:
    image = keras.Input((2,), name="image")
    inner = keras.Model(image, keras.layers.ReLU(name="relu")(image), name="inner")
    model = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1)])
    names = [layer.name for layer in inner_layers(model)]
    assert names[:3] == ["inner", "image", "relu"]
    assert len(names) == 4


def test_a_layer_has_none() -> None:
    assert not list(inner_layers(keras.layers.ReLU()))
