import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps.provenance import weights_sha256


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), keras.layers.BatchNormalization()]
    )


def test_the_hash_is_that_of_the_weights_alone() -> None:
    first, second = model(), model()
    second.name = "another"
    assert weights_sha256(first) == weights_sha256(second)
    assert re.fullmatch("[0-9a-f]{64}", weights_sha256(first))


@pytest.mark.parametrize("index", range(6))
def test_the_hash_changes_with_any_weight(index: int) -> None:
    changed = model()
    before = weights_sha256(changed)
    value = np.array(changed.weights[index])
    value.flat[-1] = np.nextafter(value.flat[-1], np.float32(9))
    changed.weights[index].assign(value)
    assert weights_sha256(changed) != before


def test_a_file_brings_the_same_hash_back(tmp_path: Path) -> None:
    saved = model()
    saved.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert weights_sha256(loaded) == weights_sha256(saved)
