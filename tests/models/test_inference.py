import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
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
    x = layers.Dropout(0.9)(layers.BatchNormalization()(inputs))
    c = layers.Dense(3, "softmax")(layers.Flatten()(x))
    return keras.Model(inputs, NormalizedSum()([c, QIMDecoder(3, a0=-1e-4)(inputs)]))


@pytest.mark.parametrize("batch_size", [4, 256])
def test_ragged_batches_give_what_single_images_give(batch_size: int) -> None:
    network = model()
    images = IMAGES[:5]
    singles = [np.asarray(network(image[None], training=False)) for image in images]
    result = predict(network, images, batch_size=batch_size)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.concatenate(singles), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [0, 2.0])
def test_batches_without_an_image_are_refused(batch_size: Any) -> None:
    with pytest.raises(ValueError, match=f"argument `batch_size`.*={batch_size}"):
        predict(model(), IMAGES, batch_size=batch_size)


def test_one_trace_serves_every_batch_size() -> None:
    calls = []

    class Counting(layers.Layer):
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


def test_new_weights_are_seen_without_a_new_trace() -> None:
    network = model()
    before = predict(network, IMAGES)
    network.trainable_variables[-1].assign([9.0, 0.0, 0.0])
    after = predict(network, IMAGES)
    np.testing.assert_allclose(after, np.asarray(network(IMAGES)), rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 0.05


def test_a_sequential_model_is_not_tied_to_the_batch_that_built_it() -> None:
    network = keras.Sequential([layers.Flatten(), layers.Dense(3)])
    expected = np.asarray(network(IMAGES[:7]))
    result = predict(network, IMAGES, batch_size=10)
    assert result.shape == (23, 3)
    np.testing.assert_allclose(result[:7], expected, rtol=1e-5, atol=1e-6)


def test_a_model_of_any_image_size_takes_each() -> None:
    inputs = keras.Input((None, None, 1))
    pooled = layers.GlobalAveragePooling2D()(inputs)
    network = keras.Model(inputs, pooled)
    for size in (2, 4):
        images = IMAGES[:, :size, :size]
        np.testing.assert_allclose(
            predict(network, images), images.mean(axis=(1, 2)), rtol=1e-5
        )


SMALL = np.random.default_rng(0).random((6, 2, 3, 1), np.float32)

Change = Callable[[keras.Model], None]


def network(last: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    within = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu")])
    parts = [layers.Flatten(), within, layers.Dense(3, activation=last)]
    return keras.Sequential([keras.Input(SMALL.shape[1:]), *parts])


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


def pop(model: keras.Model) -> None:
    model.pop()
    model.add(layers.Dense(3))


def change_activation(model: keras.Model) -> None:
    model.layers[-1].activation = keras.activations.tanh


def change_activation_within(model: keras.Model) -> None:
    model.layers[1].layers[0].activation = keras.activations.elu


@pytest.mark.parametrize(
    "change", [enable_lora, quantize, pop, change_activation, change_activation_within]
)
def test_a_changed_model_answers_as_it_is_now(change: Change) -> None:
    model = network()
    before = predict(model, SMALL)
    input_gradient_model(model)
    change(model)
    after = predict(model, SMALL)
    for found in (after, input_gradient_model(model)(SMALL)):
        np.testing.assert_allclose(found, model(SMALL), rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 1e-3


def test_a_changed_model_has_the_logits_that_it_has_now() -> None:
    model = network("softmax")
    old = logits_model(model, "probabilities")
    quantize(model)
    new = logits_model(model, "probabilities")
    assert new is not old
    np.testing.assert_allclose(
        keras.ops.softmax(new(SMALL)), model(SMALL), rtol=1e-4, atol=1e-6
    )


def test_new_values_fitting_and_frozen_layers_change_nothing() -> None:
    model, kept = network(), PerModel[object]()
    first = kept.get(model, object)
    model.compile("sgd", "mse", metrics=["mae"], jit_compile=False)
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


@pytest.mark.parametrize(
    "use", [lambda model: predict(model, SMALL), input_gradient_model]
)
def test_a_model_that_nobody_holds_is_let_go(use: Change) -> None:
    model = network()
    use(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_what_is_kept_goes_with_the_model_and_holds_none_of_its_weights() -> None:
    model, kept = network(), PerModel[object]()
    made = weakref.ref(kept.get(model, layers.ReLU))
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


def test_the_layers_of_a_model_within_follow_it() -> None:
    image = keras.Input((2,), name="image")
    inner = keras.Model(image, layers.ReLU(name="relu")(image), name="inner")
    model = keras.Sequential([keras.Input((2,)), inner, layers.Dense(1)])
    names = [layer.name for layer in inner_layers(model)]
    assert names[:3] == ["inner", "image", "relu"]
    assert len(names) == 4
    assert not list(inner_layers(layers.ReLU()))
