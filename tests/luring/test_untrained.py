from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps.luring.variants import untrained
from tests.luring.conftest import CLASSES, tiny_target


@pytest.mark.parametrize("nested", [False, True])
def test_a_clone_of_a_frozen_classifier_learns_in_every_layer(
    nested: bool, images: np.ndarray, labels: np.ndarray
) -> None:
    target = tiny_target()
    if nested:
        inputs = keras.Input(target.input_shape[1:])
        target = keras.Model(inputs, target(inputs))
        target.trainable = False
    fresh = untrained(target)
    before = [np.asarray(weight.value) for weight in fresh.weights]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fresh.compile("sgd", loss, jit_compile=False)
    fresh.fit(images, labels, verbose=0)
    assert fresh.output_shape[1] == CLASSES
    assert all(
        (np.asarray(weight.value) != old).any()
        for weight, old in zip(fresh.weights, before, strict=True)
    )
    assert not target.trainable_weights


def test_it_has_no_optimizer_of_the_classifiers(tmp_path: Path) -> None:
    target = tiny_target()
    target.compile("adam", "mse", jit_compile=False)
    target.save(tmp_path / "target.keras")
    fresh = untrained(keras.saving.load_model(tmp_path / "target.keras"))
    assert not fresh.compiled
    inputs = keras.Input(target.input_shape[1:])
    keras.Model(inputs, fresh(inputs)).save(tmp_path / "whole.keras")
    keras.saving.load_model(tmp_path / "whole.keras", compile=False)
