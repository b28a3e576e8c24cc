"""A lured classifier and its schemes that come from a file."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.luring import LuredClassifier, agreement_model
from keras_traps.models.inference import predict
from tests.luring.conftest import SHAPE, tiny_lure, tiny_target


@keras.saving.register_keras_serializable(package="tests")
class Standardized(keras.layers.Layer):
    """Divides by a weight that is 0 until it is read."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.scale = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return images / self.scale


def test_the_classifier_is_not_judged_before_its_weights_are_read(
    images: np.ndarray, tmp_path: Path
) -> None:
    layer = Standardized()
    inner = keras.Sequential([keras.Input(SHAPE), layer, keras.layers.Flatten()])
    layer.scale.assign(2.0)
    model = LuredClassifier(inner, tiny_lure(), output="logits")
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))


@pytest.mark.slow
def test_a_process_that_imports_the_package_reads_them(
    images: np.ndarray, tmp_path: Path
) -> None:
    lured = LuredClassifier(tiny_target(), tiny_lure(), output="logits")
    lured.save(tmp_path / "lured.keras")
    agreed = agreement_model(lured.target, lured.lure, output="logits")
    agreed.save(tmp_path / "agreed.keras")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, keras, numpy as np, keras_traps\n"
        "folder = sys.argv[1]\n"
        "images = np.load(f'{folder}/images.npy')\n"
        "keras.saving.load_model(f'{folder}/agreed.keras')\n"
        "lured = keras.saving.load_model(f'{folder}/lured.keras')\n"
        "np.save(f'{folder}/found.npy', lured.predict(images, verbose=0))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, predict(lured, images), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_how_the_classifier_was_trained_is_left_out(
    images: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    target = tiny_target()
    target.trainable = True
    target.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    target.fit(images, labels, verbose=0)
    target.trainable = False
    model = LuredClassifier(target, tiny_lure(), output="logits")
    model.save(tmp_path / "lured.keras")
    # A warning of an optimizer whose state does not fit would be an error.
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert not loaded.target.compiled
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))


def test_an_uncompiled_one_survives_a_file(images: np.ndarray, tmp_path: Path) -> None:
    model = LuredClassifier(tiny_target(), tiny_lure(), output="logits")
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))
