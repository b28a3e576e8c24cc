"""What all tests share: quiet TensorFlow, and the data that some of them need."""

from __future__ import annotations

import importlib
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    import keras

    from keras_traps import Calibration
    from keras_traps.datasets import Dataset
    from keras_traps.evaluation.subjects import Defence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _seed() -> None:
    import keras
    import tensorflow as tf

    # What TensorFlow draws in functions and data sets depends on its seed alone. When
    # it is set, TensorFlow compiles anew whatever is called next, which takes long.
    if tf.compat.v1.get_seed(1)[0] != 0:
        keras.utils.set_random_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Draws what a test's fixtures leave to chance from the same seed each time."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Does so for the test itself, whichever of its fixtures were built before."""
    _seed()


class _ByFixture(LoadFileScheduling):
    """Gives a worker a whole file, or all files that share what takes long to make."""

    def _split_scope(self, nodeid: str) -> str:
        for folder in ("tests/recipes/", "tests/serving/"):
            if nodeid.startswith(folder):
                return folder
        return str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Any
) -> LoadFileScheduling | None:
    """Has the same fixtures not made by each worker, with `--dist loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    return _ByFixture(config, log)


@pytest.fixture(scope="session")
def archives() -> Path:
    """The folder of real `.npz` archives; skips where there is none."""
    place = os.environ.get("KERAS_TRAPS_DATA")
    if place and Path(place).is_dir():
        return Path(place)
    pytest.skip("no data: set KERAS_TRAPS_DATA to a folder of .npz archives")


@pytest.fixture(scope="session")
def deepsec_weights(archives: Path) -> Path:
    """The folder of DEEPSEC state dicts beside the data; skips where there is none."""
    folder = archives.parent / "models"
    if not folder.is_dir():
        pytest.skip("no DEEPSEC weights: expected a folder `models` beside the data")
    return folder


@pytest.fixture
def quick_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported models are reloaded in this process, for tests of other things."""
    # The script hides Keras and this package.
    with mock.patch.dict("sys.modules"):
        script = importlib.import_module("keras_traps.serving._reload")
    monkeypatch.setattr("keras_traps.serving.selftest.reload", script.main)


@pytest.fixture(scope="session")
def digits_train() -> Dataset:
    """The built-in digits to train on."""
    from keras_traps.datasets import load

    return load("digits")


@pytest.fixture(scope="session")
def digits_test() -> Dataset:
    """The built-in digits to test on."""
    from keras_traps.datasets import load

    return load("digits", "test")


@pytest.fixture(scope="session")
def digits_classifier(digits_train: Dataset) -> keras.Model:
    """A briefly trained classifier of the digits that returns logits; never change it.

    It is right on about 95 % of the test images.
    """
    import keras

    from keras_traps.models import digits_cnn, train

    keras.utils.set_random_seed(0)
    model = digits_cnn()
    train(model, digits_train, epochs=4, batch_size=64, learning_rate=5e-3)
    return model


@pytest.fixture(scope="session")
def digits_file(
    digits_classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("models") / "digits.keras"
    digits_classifier.save(path)
    return path


@pytest.fixture(scope="session")
def digits_calibration(
    digits_classifier: keras.Model, digits_train: Dataset
) -> Calibration:
    """The constants of traps for it."""
    from keras_traps import Key, calibrate

    return calibrate(
        digits_classifier, digits_train.images, output="logits", key=Key.from_seed(0)
    )


@pytest.fixture(scope="session")
def digits_defence(
    digits_classifier: keras.Model,
    digits_calibration: Calibration,
    digits_train: Dataset,
) -> Defence:
    """The same classifier with its traps and analyzers; never change it."""
    from keras_traps.evaluation.subjects import defend

    return defend(digits_classifier, digits_calibration.settings, digits_train.images)
