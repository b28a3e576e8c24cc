from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from keras_traps.attacks.compiled import once_per_model
from tests.attacks.calling import EVERY, attack, compiled_parts
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
    ],
)
@pytest.mark.parametrize("batch_size", [2, 5])
def test_the_example_whose_gradient_is_not_finite_is_named(
    name: str, settings: dict[str, Any], batch_size: int
) -> None:
    made, labels = create(name, **settings), np.zeros(5, int)
    with pytest.raises(
        RuntimeError, match=rf"{name} on .*not finite, at the examples \[13\]\.$"
    ):
        made(
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


@pytest.mark.parametrize("name", ["BIM", "CW2", "JSMA"])
def test_what_takes_a_gradient_stays_apart_from_its_loop(name: str) -> None:
    model = linear(TWO_CLASSES)
    attack(name, model, some_images(2), [0, 1], EVERY[name])
    (loop,) = compiled_parts(model).values()
    functions = loop.get_concrete_function().graph.as_graph_def().library.function
    assert any(function.attr["_noinline"].b for function in functions)
