"""Facts about attacks on models that end in a softmax."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from keras_traps.attacks.model_checks import check_differentiable
from tests.attacks.calling import ITERATIVE, run
from tests.attacks.victims import (
    SHAPE,
    TOWARDS_1,
    TWO_CLASSES,
    some_images,
    with_softmax,
)


class Rounded(keras.layers.Layer):
    """Has a gradient of None."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.round(inputs)


def test_the_layer_is_named_in_a_model_within_the_model() -> None:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(2.0)(image))
    inner = keras.Model(image, Rounded(name="rounded")(hidden), name="inner")
    middle = keras.Sequential([keras.Input(SHAPE), inner], name="middle")
    image = keras.Input(SHAPE)
    before = keras.layers.Rescaling(1.0, name="before")(image)
    after = keras.layers.Rescaling(1.0, name="after")(middle(before))
    model = keras.Model(image, keras.layers.Dense(2)(after))
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


def test_a_gradient_of_zero_is_a_gradient() -> None:
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(image)
    check_differentiable(keras.Model(image, keras.layers.Dense(2)(flat * 0.0)))


# That all kinds are found is a fact of the models' logits.
@pytest.mark.parametrize("kind", ["dense", "cast"])
def test_a_saturated_softmax_is_taken_off(kind: str) -> None:
    # The classes lie thousands apart: the softmax is 1 and 0 and has no gradient left.
    kernel = TWO_CLASSES * np.float32(1e4)
    images = some_images(4)
    model = with_softmax(kernel, kind)
    labels = model(images).numpy().argmax(axis=1)
    attack = create("FGSM", eps=0.1)

    result = attack(model, images, labels, output="probabilities", loss="margin")

    towards = np.where(labels[:, None, None, None] == 0, TOWARDS_1, -TOWARDS_1)
    expected = images + np.float32(0.1) * towards.astype(np.float32)
    np.testing.assert_array_equal(result.images, expected)
    # The probabilities themselves would have left the images as they were.
    naive = attack(model, images, labels, output="scores", loss="margin")
    np.testing.assert_array_equal(naive.images, images)


def test_one_sure_image_of_many_is_found_behind_an_unknown_last_layer() -> None:
    model = with_softmax(TWO_CLASSES * np.float32(10), "hidden")
    # At grey images the classes lie 12 apart, at this one more than 70.
    images = np.full((50, *SHAPE), 0.5, np.float32)
    images[41] = (1 - TOWARDS_1[0]) / 2
    assert (model(images).numpy().min(axis=1) < 1e-30).nonzero()[0].tolist() == [41]
    expected = r"at 1 of 50 images, the first at index 41.*output=\"logits\""
    with pytest.raises(ValueError, match=expected):
        create("SPSA", eps=0.1, nb_iter=1)(
            model, images, [0] * 50, output="probabilities"
        )


def pooled(data_format: str) -> keras.Model:
    image = keras.Input((3, 8, 8))
    pool = keras.layers.GlobalAveragePooling2D(data_format=data_format, name="pool")
    inner = keras.Model(image, pool(image))
    return keras.Model(image, keras.layers.Dense(2)(inner(image)), name="pooled")


def test_an_attack_along_height_and_width_refuses_channels_first() -> None:
    images = np.full((1, 3, 8, 8), 0.5, np.float32)
    first, last = pooled("channels_first"), pooled("channels_last")
    expected = r"`model`. DIM-TI goes by .*'pooled', whose layer 'pool' has .*first"
    with pytest.raises(ValueError, match=expected):
        run("DIM-TI", first, images, [0], ITERATIVE)
    run("DIM-TI", last, images, [0], ITERATIVE)
    run("MIM", first, images, [0], ITERATIVE)
