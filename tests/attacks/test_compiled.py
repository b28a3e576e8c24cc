import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from keras_traps.attacks.compiled import once_per_model
from keras_traps.attacks.losses import Loss
from tests.attacks.victims import SHAPE, TWO_CLASSES, linear, some_images


class Root(keras.layers.Layer):
    """Its slope is infinite at 0."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(inputs)


def rooted() -> keras.Model:
    image = keras.Input(SHAPE)
    dense = keras.layers.Dense(2)
    return keras.Model(image, dense(keras.layers.Flatten()(Root()(image))))


def with_a_zero_in(row: int) -> Any:
    images = some_images(5)
    images[row, 0, 0, 0] = 0
    return images


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("FGSM", {"eps": 0.1}),
        ("BIM", {"eps": 0.1, "eps_iter": 0.05, "nb_iter": 2}),
        ("UMIFGSM", {"eps": 0.1, "eps_iter": 0.05, "nb_iter": 2}),
    ],
)
@pytest.mark.parametrize("batch_size", [2, 5])
def test_the_example_whose_gradient_is_not_finite_is_named(
    name: str, settings: dict[str, Any], batch_size: int
) -> None:
    attack, labels = create(name, **settings), np.zeros(5, int)
    with pytest.raises(
        RuntimeError, match=rf"{name} on .*not finite, at the examples \[13\]\.$"
    ):
        attack(
            rooted(),
            with_a_zero_in(3),
            labels,
            ids=np.arange(10, 15),
            batch_size=batch_size,
        )


def test_a_part_is_made_once_for_a_model_and_key() -> None:
    one, other = linear(TWO_CLASSES), linear(TWO_CLASSES)
    made = [
        once_per_model(model, key, lambda logits: [logits])
        for model, key in [(one, "a"), (one, "a"), (one, "b"), (other, "a")]
    ]
    assert made[0] is made[1]
    assert made[0] is not made[2]
    assert made[0] is not made[3]


def test_parts_do_not_keep_a_model_alive() -> None:
    model = linear(TWO_CLASSES)
    create("BIM", eps=0.1, eps_iter=0.1, nb_iter=1)(model, some_images(2), [0, 1])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_weights_are_freed_with_their_model() -> None:
    model = linear(TWO_CLASSES)
    attack = create("PGD", eps=0.1, eps_iter=0.1, nb_iter=1, abort_early=True)
    attack(model, some_images(2), [0, 1])
    handles = [weakref.ref(weight.value.handle) for weight in model.weights]
    assert handles
    del model
    # What goes with the model is known to be of no use only when the model is gone.
    gc.collect()
    gc.collect()
    assert [handle() for handle in handles] == [None] * len(handles)


class Counting(keras.layers.Layer):
    """Counts how often it is traced."""

    traces = 0

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if tf.inside_function():
            type(self).traces += 1
        return inputs


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("name", ["BIM", "UMIFGSM"])
def test_a_model_is_traced_once_for_all_batches(name: str, loss: Loss) -> None:
    image = keras.Input(SHAPE)
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(keras.layers.Flatten()(Counting()(image))))
    images, labels = some_images(7), np.array([0, 1, 0, 1, 0, 1, 0])
    attack = create(name, eps=0.1, eps_iter=0.05, nb_iter=3)
    attack(model, images[:2], labels[:2], loss=loss)
    before = Counting.traces

    attack(model, images, labels, loss=loss, batch_size=3)

    assert Counting.traces == before
