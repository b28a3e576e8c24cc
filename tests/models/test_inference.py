import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps._checks import FloatArray
from keras_traps.layers import NormalizedSum, QIMDecoder
from keras_traps.models.inference import inference_function, predict

IMAGES: FloatArray = np.random.default_rng(0).random((23, 4, 4, 1), np.float32)


def model() -> keras.Model:
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(3, 2)(inputs)
    x = keras.layers.Dropout(0.9)(keras.layers.BatchNormalization()(x))
    c = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(x))
    return keras.Model(inputs, NormalizedSum()([c, QIMDecoder(3, a0=-1e-4)(inputs)]))


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 24, 256])
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
