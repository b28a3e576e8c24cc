import gc
import weakref
from typing import Any

import numpy as np
import tensorflow as tf

from keras_traps.attacks.boundary import Crossing, boundary_search
from tests.attacks.victims import TWO_CLASSES, linear, some_images, tanh_net


def search(model: Any, images: Any, labels: Any, steps: int = 50) -> Crossing:
    count = len(np.asarray(images))
    return boundary_search(model)(
        tf.constant(images),
        tf.constant(labels, tf.int64),
        tf.range(count, dtype=tf.int64),
        tf.constant(steps),
        tf.constant(0.02),
        tf.constant(3),
    )


def test_what_it_says_of_an_image_is_what_the_model_answers() -> None:
    net = tanh_net()
    images = np.random.default_rng(3).random((40, 2, 3, 1), np.float32)
    labels = np.arange(40) % 3

    found = search(net.model, images, labels, steps=1)

    answers = net.model(found.images).numpy().argmax(axis=1)
    fooled = found.fooled.numpy()
    np.testing.assert_array_equal(fooled, answers != labels)
    # Of the three kinds: wrong before, crossed, failed.
    steps = found.iterations.numpy()
    assert {(0, True), (1, True), (1, False)} == set(zip(steps, fooled, strict=True))
    unchanged = (found.images.numpy() == images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(unchanged, (steps == 0) | ~fooled)


def test_a_search_is_compiled_once_for_a_model_and_does_not_keep_it_alive() -> None:
    model = linear(TWO_CLASSES)
    assert boundary_search(model) is boundary_search(model)
    search(model, some_images(2), [0, 1])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
