import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_traps.datasets import Dataset
from keras_traps.models.forms import check_data, class_answers, for_model


def of_shape(*shape: int, outputs: int = 10) -> keras.Model:
    image = keras.Input(shape)
    answer = layers.Dense(outputs, name="head")(layers.Flatten()(image))
    return keras.Model(image, answer, name="own")


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8), (64,), (1, 8, 8)])
def test_images_are_given_as_a_model_takes_them(
    shape: tuple[int, ...], digits_test: Dataset
) -> None:
    model = of_shape(*shape)
    check_data(model, digits_test)
    given = for_model(model, digits_test.images, (-1.0, 1.0))
    assert given.shape == (500, *shape)
    expected = 2 * digits_test.images.reshape(500, 64) - 1
    np.testing.assert_allclose(given.reshape(500, 64), expected, atol=1e-6)


def test_one_output_is_answered_with_a_column_for_each_class(
    digits_test: Dataset,
) -> None:
    images = digits_test.images[:20]
    model = of_shape(8, 8, 1, outputs=1)
    answers = class_answers(model, images, "logits")
    np.testing.assert_allclose(answers[:, 1:], model(images), rtol=1e-5)
    assert (answers[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("shape", "outputs", "expected"),
    [
        ((28, 28, 1), 10, r"shape \(8, 8, 1\).*'digits'.*shape \(28, 28, 1\)"),
        ((8, 8, 3), 10, r"shape \(8, 8, 1\)"),
        ((192,), 10, r"shape \(8, 8, 1\)"),
        ((8, 8, 1), 7, "of 10 classes, as 'digits' has.*'own' of 7 classes"),
        ((8, 8, 1), 1, "of 10 classes.* of 2 classes"),
    ],
)
def test_data_of_other_images_or_classes_are_refused(
    shape: tuple[int, ...], outputs: int, expected: str, digits_test: Dataset
) -> None:
    with pytest.raises(ValueError, match=f"argument `mine`.*{expected}"):
        check_data(of_shape(*shape, outputs=outputs), digits_test, name="mine")


def test_two_classes_are_those_of_one_output(digits_test: Dataset) -> None:
    two: Any = {"labels": digits_test.labels % 2, "num_classes": 2}
    check_data(of_shape(8, 8, outputs=1), dataclasses.replace(digits_test, **two))
