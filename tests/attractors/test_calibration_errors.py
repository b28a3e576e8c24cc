from typing import Any

import keras
import numpy as np
import pytest

from keras_traps.attractors import calibrate
from keras_traps.datasets import Dataset
from tests.attractors.conftest import nan_on_black_images


@pytest.mark.parametrize(("budget", "needed"), [(0.001, 1000), (0.3, 4)])
def test_too_few_images_say_how_many_are_needed(
    classifier: keras.Model, digits_train: Dataset, budget: float, needed: int
) -> None:
    images = digits_train.images[: needed - 1]
    with pytest.raises(ValueError, match=rf"at least {needed} images.*{needed - 1}"):
        calibrate(classifier, images, output="logits", budget=budget)
    enough = calibrate(
        classifier, digits_train.images[:needed], output="logits", budget=budget
    )
    assert enough.num_images == needed


@pytest.mark.parametrize("budget", [0.0, 1.0, -0.1, float("nan")])
def test_a_budget_out_of_range_is_refused(
    classifier: keras.Model, digits_train: Dataset, budget: float
) -> None:
    with pytest.raises(ValueError, match="argument `budget`"):
        calibrate(classifier, digits_train.images, output="logits", budget=budget)


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan")])
def test_a_share_out_of_range_is_refused(
    classifier: keras.Model, digits_train: Dataset, share: float
) -> None:
    with pytest.raises(ValueError, match="argument `small_step_share`"):
        calibrate(
            classifier,
            digits_train.images,
            output="logits",
            budget=0.01,
            small_step_share=share,
        )


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("clean_position", (1.0, 2.0, np.nan, -np.inf), "number below 1"),
        ("clean_reach", (0.0, -0.1, np.nan, np.inf), "number above 0"),
        ("border_weight", (0.0, 1e-4, 1e4, np.nan, np.inf), "from 0.001 to 1000"),
        ("largest_a2", (0.0, -1.0, np.nan, np.inf), "number above 0"),
    ],
)
def test_a_constant_out_of_its_range_is_refused(
    classifier: keras.Model,
    digits_train: Dataset,
    name: str,
    values: tuple[float, ...],
    expected: str,
) -> None:
    for value in values:
        settings: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"argument `{name}`.*{expected}"):
            calibrate(classifier, digits_train.images, output="logits", **settings)


def test_integer_images_are_refused(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    with pytest.raises(TypeError, match="divide integer pixels by 255"):
        calibrate(classifier, digits_train.pixels, output="logits")


def test_images_that_hold_a_nan_are_refused(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    images = digits_train.images.copy()
    images[77, 3, 3] = np.nan
    with pytest.raises(ValueError, match="Expected finite pixels"):
        calibrate(classifier, images, output="logits")


def test_images_of_another_shape_are_refused(classifier: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"images of shape \(batch, 8, 8, 1\)"):
        calibrate(classifier, np.zeros((1000, 8, 8), np.float32), output="logits")


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_images_that_are_all_alike_are_refused(
    classifier: keras.Model, level: float
) -> None:
    images = np.full((1000, 8, 8, 1), level, np.float32)
    with pytest.raises(ValueError, match=r"argument `images`.*images that differ"):
        calibrate(classifier, images, output="logits")


def test_a_wrong_declaration_is_refused(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    with pytest.raises(ValueError, match="do not look like probabilities"):
        calibrate(classifier, digits_train.images, output="probabilities")


def test_a_classifier_that_is_not_finite_on_the_last_image_is_refused(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    images = digits_train.images[:1000].copy()
    images[-1] = 0
    with pytest.raises(ValueError, match="numbers that are not finite"):
        calibrate(nan_on_black_images(classifier), images, output="logits")


def test_a_classifier_that_knows_nothing_has_no_answers_to_keep(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    classifier.get_layer("head").set_weights([np.zeros((64, 10)), np.zeros(10)])
    with pytest.raises(ValueError, match=r"argument `budget`.*No correlation is small"):
        calibrate(classifier, digits_train.images, output="logits")
