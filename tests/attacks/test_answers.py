"""Facts about what the model answers, before an attack and after it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from tests.attacks.victims import SHAPE, TWO_CLASSES, linear, some_images


class AtMostTwo(keras.layers.Layer):
    """Refuses more than two images at once."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        few = tf.debugging.assert_less_equal(tf.shape(images)[0], 2)
        with tf.control_dependencies([few] if few is not None else []):
            return tf.identity(images)


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
