"""Facts that hold for every attack of the registry."""

import gc
import weakref

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import names
from tests.attacks.calling import EVERY, run

# Input diversity has to leave something of a side.
SHAPE = (4, 4, 1)


def small_model() -> keras.Model:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Dense(5, "tanh")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(3)(hidden))
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(0, 1, w.shape) for w in model.get_weights()])
    return model


def images(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).random((count, *SHAPE), np.float32)


def test_none_is_left_out() -> None:
    assert set(EVERY) == set(names())


@pytest.mark.parametrize("name", EVERY)
def test_a_model_and_its_weights_are_freed_after_an_attack(name: str) -> None:
    model = small_model()
    run(name, model, images(2), [0, 1], EVERY[name])
    gone = weakref.ref(model)
    handles = [weakref.ref(weight.value.handle) for weight in model.weights]
    assert handles
    del model
    # What goes with the model is known to be of no use only when the model is gone.
    gc.collect()
    assert gone() is None
    gc.collect()
    assert [handle() for handle in handles] == [None] * len(handles)
