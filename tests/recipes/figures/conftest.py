"""A linear classifier of the digits with its traps, made without training."""

import pytest

from keras_traps import calibrate
from keras_traps.attractors import Calibration
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence, defend
from keras_traps.ops import Key
from tests.attractors.conftest import least_squares_classifier


@pytest.fixture(scope="session")
def linear_calibration(digits_train: Dataset) -> Calibration:
    model = least_squares_classifier(digits_train, "linear")
    key = Key.from_seed(1)
    return calibrate(model, digits_train.images, output="logits", budget=0.005, key=key)


@pytest.fixture(scope="session")
def defence(linear_calibration: Calibration, digits_train: Dataset) -> Defence:
    model = least_squares_classifier(digits_train, "linear")
    return defend(model, linear_calibration.settings, digits_train.images)
