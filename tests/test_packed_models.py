from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps._packed_models import changed_answers, pack_model, unpack_model
from keras_traps.layers import LuringInput
from keras_traps.luring import LuredClassifier
from keras_traps.models import madry_mnist_cnn

WIDTH = 1 / 16


@pytest.fixture(scope="module")
def target() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = madry_mnist_cnn(WIDTH)
    model.trainable = False
    return model


def test_half_precision_is_what_is_lost(target: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "target.npz"
    pack_model(target, path, architecture="madry_mnist_cnn", width=WIDTH)
    loaded = unpack_model(path)
    assert not loaded.trainable_variables
    for kept, whole in zip(loaded.get_weights(), target.get_weights(), strict=True):
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, whole.astype(np.float16))
    assert path.stat().st_size < 2.2 * target.count_params()


def test_a_lure_comes_back_as_it_was(target: keras.Model, tmp_path: Path) -> None:
    model = LuredClassifier(target, LuringInput("mnist"), output="logits")
    lure = model.to_lure_model()
    path = tmp_path / "lure.npz"
    pack_model(lure, path, architecture="luring_mnist", half=False)
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(unpack_model(path)(images), lure(images))


def test_changed_answers_are_counted(target: keras.Model) -> None:
    images = np.random.default_rng(0).random((20, 28, 28, 1), np.float32)
    assert changed_answers(target, target, images) == 0
    other = keras.models.clone_model(target)
    weights = target.get_weights()
    # The last class wins on every image.
    weights[-1] = np.eye(10, dtype=np.float32)[9] * 1e3
    other.set_weights(weights)
    expected = (target(images).numpy().argmax(axis=1) != 9).sum()
    assert changed_answers(target, other, images) == expected > 0


@pytest.mark.parametrize("number", [1e6, float("nan")])
def test_a_weight_that_it_cannot_hold_is_refused(
    number: float, target: keras.Model, tmp_path: Path
) -> None:
    model = keras.models.clone_model(target)
    model.layers[-1].bias.assign(np.full(10, number))
    path = tmp_path / "target.npz"
    with pytest.raises(ValueError, match=r"`model`.*65504"):
        pack_model(model, path, architecture="madry_mnist_cnn", width=WIDTH)
    assert not path.exists()


def test_another_architecture_is_refused(target: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`model`"):
        pack_model(target, tmp_path / "t.npz", architecture="madry_mnist_cnn")
    wrong: Any = "resnet"
    with pytest.raises(ValueError, match="`architecture`"):
        pack_model(target, tmp_path / "t.npz", architecture=wrong)
    with pytest.raises(FileNotFoundError):
        unpack_model(tmp_path / "t.npz")
