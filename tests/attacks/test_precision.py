"""Facts about models that compute in another precision than float32."""

import functools
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps.attacks import create, names
from tests.attacks.calling import run

SHAPE = (4, 4, 1)
IN_BALL: dict[str, Any] = {"eps": 0.3}
STEPS: dict[str, Any] = {**IN_BALL, "eps_iter": 0.1, "nb_iter": 2}
SEARCH: dict[str, Any] = {
    "initial_const": 1.0,
    "binary_search_steps": 2,
    "max_iterations": 4,
}
STEPPED: dict[str, Any] = {**SEARCH, "learning_rate": 0.3}
RANDOMISED: dict[str, Any] = {**IN_BALL, "alpha": 0.1}
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("FGSM", "LLC"), IN_BALL),
    **dict.fromkeys(("RFGSM", "RLLC"), RANDOMISED),
    "UAP": {**IN_BALL, "max_iter": 1},
    "DeepFool": {"max_iter": 3},
    "JSMA": {},
    "SPSA": {**IN_BALL, "nb_iter": 2, "spsa_samples": 4},
    "MIML2": {**STEPS, "radius": 1.0},
    **dict.fromkeys(("CW2", "UCW2", "EAD"), STEPPED),
    "OM": {**STEPPED, "noise_count": 2},
    "BLB": SEARCH,
}


@functools.cache
def net(policy: str) -> keras.Model:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Conv2D(3, 2, activation="tanh", dtype=policy)(image)
    flat = keras.layers.Flatten(dtype=policy)(hidden)
    model = keras.Model(image, keras.layers.Dense(3, dtype=policy)(flat))
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(0, 1, w.shape) for w in model.get_weights()])
    return model


@functools.cache
def out_of_reach(policy: str) -> keras.Model:
    """The second class is never above the first: pixels are not below 0."""
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten(dtype=policy)(image)
    dense = keras.layers.Dense(2, use_bias=False, dtype=policy)
    model = keras.Model(image, dense(flat))
    dense.set_weights([np.full((16, 2), [2.0, 1.0])])
    return model


def pictures(count: int) -> Any:
    return np.random.default_rng(1).uniform(0.4, 0.6, (count, *SHAPE)).astype("f4")


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(
    "policy", ["float16", "mixed_float16", "mixed_bfloat16", "float64"]
)
def test_an_attack_runs_and_keeps_its_bounds(policy: str, name: str) -> None:
    images = pictures(4)
    settings = SETTINGS.get(name, STEPS)
    result = run(name, net(policy), images, [0, 1, 2, 0], settings)
    assert result.images.dtype == np.float32
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    bound = create(name, **settings).linf_bound
    assert (result.linf <= (1 if bound is None else bound + 1e-6)).all()
    assert result.l2.max() > 0


@pytest.mark.parametrize("name", ["CW2", "UCW2", "EAD", "OM"])
@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
def test_a_large_c_is_not_lost_in_half_precision(policy: str, name: str) -> None:
    # The last of ten searches takes 1e10.
    images = pictures(2)
    settings = {**SETTINGS[name], "binary_search_steps": 10, "max_iterations": 20}
    made = create(name, **settings)
    result = made(
        out_of_reach(policy), images, [0, 0], y_target=[1, 1] if made.targeted else None
    )
    assert not result.success.any()
    np.testing.assert_array_equal(result.images, images)
    assert (result.iterations > 0).all()
