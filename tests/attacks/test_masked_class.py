"""Facts about models with a class that they are kept from answering."""

import functools
from typing import Any

import keras
import numpy as np
import pytest

from tests.attacks.calling import run
from tests.attacks.victims import SHAPE, TanhNet, some_images, tanh_net

SEARCH: dict[str, Any] = {
    "initial_const": 1.0,
    "binary_search_steps": 3,
    "max_iterations": 60,
}
ATTACKS: dict[str, dict[str, Any]] = {
    "DeepFool": {},
    "UAP": {"eps": 0.5, "max_iter": 2},
    "JSMA": {"gamma": 1.0},
    "BLB": SEARCH,
    "CW2": {**SEARCH, "learning_rate": 0.1},
    "UCW2": {**SEARCH, "learning_rate": 0.1},
    "EAD": {**SEARCH, "learning_rate": 0.1},
    "OM": {**SEARCH, "learning_rate": 0.1, "noise_count": 2},
    "BIM": {"eps": 0.5, "eps_iter": 0.02, "nb_iter": 25, "abort_early": True},
    "SPSA": {"eps": 0.5, "nb_iter": 25, "early_stop_loss_threshold": 0.0},
}


@functools.cache
def with_a_masked_class() -> keras.Model:
    """Returns `tanh_net` with a fourth class whose logit is -1e9."""
    net: TanhNet = tanh_net()
    image = keras.Input(SHAPE)
    hidden = keras.layers.Dense(5, "tanh", use_bias=False)
    logits = keras.layers.Dense(4)
    model = keras.Model(image, logits(hidden(keras.layers.Flatten()(image))))
    hidden.set_weights([net.first])
    kernel = np.pad(net.second, ((0, 0), (0, 1)))
    logits.set_weights([kernel, np.array([0, 0, 0, -1e9], np.float32)])
    return model


@pytest.mark.parametrize("name", ATTACKS)
def test_a_masked_class_changes_nothing(name: str) -> None:
    images = some_images(6)
    seen = tanh_net().model(images).numpy().argmax(axis=1)
    targeted = name in ("JSMA", "BLB", "CW2", "EAD")
    classes = (seen + 1) % 3 if targeted else seen

    masked = run(name, with_a_masked_class(), images, classes, ATTACKS[name])

    free = run(name, tanh_net().model, images, classes, ATTACKS[name])
    assert free.success.any()
    np.testing.assert_array_equal(masked.success, free.success)
    np.testing.assert_allclose(masked.l2, free.l2, rtol=0.01)
    # Rounding decides on the steps of a line search.
    if name != "BLB":
        np.testing.assert_array_equal(masked.iterations, free.iterations)
