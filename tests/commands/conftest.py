from pathlib import Path

import keras
import PIL.Image
import pytest

from keras_traps.datasets import Dataset


@pytest.fixture(scope="session")
def digits_folder(
    digits_train: Dataset,
    digits_test: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The digits as image files, by the name that commands and recipes take."""
    folder = tmp_path_factory.mktemp("digits")
    for data in (digits_train, digits_test):
        for label in range(10):
            (folder / data.split / f"digit{label}").mkdir(parents=True)
        for number, label in enumerate(data.labels):
            path = folder / data.split / f"digit{label}" / f"{number}.png"
            PIL.Image.fromarray(data.pixels[number, ..., 0]).save(path)
    return f"folder:{folder}"


@pytest.fixture(scope="session")
def own_file(
    digits_classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The classifier of the digits, of grey levels from 0 to 255."""
    path = tmp_path_factory.mktemp("models") / "own.keras"
    image = keras.Input((8, 8, 1))
    rescaled = keras.layers.Rescaling(1 / 255)(image)
    keras.Model(image, digits_classifier(rescaled)).save(path)
    return path
