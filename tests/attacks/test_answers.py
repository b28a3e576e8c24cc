"""Facts about what the model answers, before an attack and after it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from tests.attacks.victims import (
    SHAPE,
    TWO_CLASSES,
    linear,
    some_images,
    tanh_net,
)


class AtMostTwo(keras.layers.Layer):
    """Refuses more than two images at once."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        few = tf.debugging.assert_less_equal(tf.shape(images)[0], 2)
        with tf.control_dependencies([few] if few is not None else []):
            return tf.identity(images)


class ShiftedLogarithm(keras.layers.Layer):
    """Is not a number below a pixel of 0.1."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return tf.math.log(images - 0.1)


@pytest.mark.parametrize("batch_size", [1, 2, 250])
def test_one_image_alone_does_not_tell_what_the_outputs_are(batch_size: int) -> None:
    kernel = np.zeros_like(TWO_CLASSES)
    kernel[0] = 1.5, 0.5
    model, images = linear(kernel), some_images(3)
    images[:2, 0, 0] = 0.5
    np.testing.assert_array_equal(model(images).numpy()[:2], [[0.75, 0.25]] * 2)

    create("FGSM", eps=0.1)(model, images, [0, 0, 0], batch_size=batch_size)

    with pytest.raises(ValueError, match="do not look like logits"):
        create("FGSM", eps=0.1)(model, images[:2], [0, 0], batch_size=batch_size)


def test_the_model_is_never_shown_more_than_batch_size_images() -> None:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Flatten()(AtMostTwo()(image))
    model = keras.Model(image, keras.layers.Dense(2)(hidden))
    create("FGSM", eps=0.1)(model, some_images(5), [0] * 5, batch_size=2)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_examples_whose_outputs_are_not_finite_are_named(
    batch_size: int, label: int
) -> None:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Flatten()(ShiftedLogarithm()(image))
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(image, dense(hidden))
    # Each class has pixels to darken, and so to lead below 0.1.
    dense.set_weights([TWO_CLASSES])
    # From white no step of 0.6 leads there.
    images = np.ones((3, *SHAPE), np.float32)
    images[[0, 2]] = some_images(2)
    expected = r"^FGSM gave .* outputs are not finite, at the examples \[10 12\]\.$"
    with pytest.raises(RuntimeError, match=expected):
        create("FGSM", eps=0.6)(
            model, images, [label] * 3, ids=[10, 11, 12], batch_size=batch_size
        )


@pytest.mark.parametrize("name", ["FGSM", "LLC"])
def test_a_result_tells_what_the_model_answers(name: str) -> None:
    model, images = tanh_net().model, some_images(9)
    made = create(name, eps=0.3)
    labels = np.arange(9) % 3
    targets = (labels + 1) % 3 if made.targeted else None

    result = made(model, images, labels, y_target=targets, batch_size=4)

    assert result.answers.dtype == np.int64
    np.testing.assert_array_equal(
        result.answers, model(result.images).numpy().argmax(axis=1)
    )
    hit = result.answers != labels if targets is None else result.answers == targets
    np.testing.assert_array_equal(result.success, hit)
    assert len(set(result.answers)) > 1
