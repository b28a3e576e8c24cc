"""A linear classifier of the digits with its traps, made without training."""

import keras
import pytest

from keras_traps import calibrate
from keras_traps.attractors import Calibration
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence, defend
from tests.attractors.conftest import least_squares_classifier


@pytest.fixture(scope="session")
def linear_digits(digits_train: Dataset) -> keras.Model:
    return least_squares_classifier(digits_train, "linear")


@pytest.fixture(scope="session")
def linear_calibration(
    linear_digits: keras.Model, digits_train: Dataset
) -> Calibration:
    return calibrate(linear_digits, digits_train.images, output="logits", budget=0.005)


@pytest.fixture(scope="session")
def defence(
    linear_digits: keras.Model, linear_calibration: Calibration, digits_train: Dataset
) -> Defence:
    return defend(linear_digits, linear_calibration.settings, digits_train.images)
