import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps.provenance import architecture_sha256, weights_sha256


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


def test_the_hash_changes_with_any_weight() -> None:
    changed = model()
    before = weights_sha256(changed)
    value = np.array(changed.weights[5])
    value.flat[-1] = np.nextafter(value.flat[-1], np.float32(9))
    changed.weights[5].assign(value)
    assert weights_sha256(changed) != before


def branching(softmax: str | None = None, **dense: Any) -> keras.Model:
    """Two ways to the outputs, all names automatic but for one."""
    image = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(image)
    one = keras.layers.Dense(3, **dense)(flat)
    other = keras.layers.Softmax(name=softmax)(keras.layers.Dense(3)(flat))
    return keras.Model(image, keras.layers.Add()([one - keras.ops.max(one), other]))


def nested(*before: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((4, 4, 1)), *before, branching()])


@pytest.mark.parametrize("make", [branching, nested])
def test_a_file_brings_the_same_back_and_so_does_its_maker(
    make: Callable[[], keras.Model], tmp_path: Path
) -> None:
    saved = make()
    saved.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for same in (loaded, make()):
        assert architecture_sha256(same) == architecture_sha256(saved)
    assert weights_sha256(loaded) == weights_sha256(saved)


def test_training_leaves_it_as_it_was() -> None:
    model = branching()
    before = architecture_sha256(model)
    model.compile("adam", "mse", jit_compile=False)
    model.fit(keras.ops.ones((2, 4, 4, 1)), keras.ops.ones((2, 3)), verbose=0)
    assert architecture_sha256(model) == before


@pytest.mark.parametrize(
    "other",
    [
        lambda: branching(activation="relu"),
        lambda: branching(dtype="mixed_float16"),
        nested,
        lambda: nested(keras.layers.Rescaling(2.0)),
    ],
)
def test_other_layers_settings_and_precisions_are_told(
    other: Callable[[], keras.Model],
) -> None:
    known = [branching(), nested(keras.layers.Rescaling(4.0))]
    hashes = [architecture_sha256(model) for model in (*known, other())]
    assert len(set(hashes)) == 3


def test_other_connections_of_the_same_layers_are_told() -> None:
    def model(*, swapped: bool) -> keras.Model:
        image = keras.Input((3,))
        one, other = keras.layers.ReLU()(image), keras.layers.Softmax()(image)
        parts = [other, one] if swapped else [one, other]
        return keras.Model(image, keras.layers.Subtract()(parts))

    assert architecture_sha256(model(swapped=True)) != architecture_sha256(
        model(swapped=False)
    )


def test_a_layer_that_tells_nothing_of_itself_is_known_by_its_class() -> None:
    class Scale(keras.layers.Layer):
        def __init__(self, by: Any) -> None:
            super().__init__()
            self.by = by

        def call(self, inputs: Any) -> Any:
            return inputs

    def model(layer: keras.layers.Layer) -> keras.Model:
        return keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(2)])

    plain = model(keras.layers.ReLU())
    first, second = (model(Scale(object())) for _ in range(2))
    assert architecture_sha256(first) == architecture_sha256(second)
    assert architecture_sha256(first) != architecture_sha256(plain)
