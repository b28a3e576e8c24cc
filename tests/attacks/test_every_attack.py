"""Facts that hold for every attack of the registry."""

import functools
import gc
import re
import weakref
from collections.abc import Iterator

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import create, lbfgs, names, optmargin
from keras_traps.attacks.loop import NON_FINITE
from tests.attacks.calling import EVERY, Settings, compiled_parts, run
from tests.attacks.victims import Root

# Input diversity has to leave something of a side.
SHAPE = (4, 4, 1)


# What else is a number to a compiled loop.
SWITCHES: dict[str, Settings] = {
    "UAP": {"nb_candidate": 2},
    "DeepFool": {"nb_candidate": 2},
    "OM": {"all_noises": True, "abort_early": False},
    "SPSA": {"early_stop_loss_threshold": 0.0},
    "CW2": {"abort_early": False},
    "EAD": {"abort_early": True, "decision_rule": "L1"},
    "UCW2": {"abort_early": False},
}


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


def other_settings(name: str) -> Settings:
    """Returns settings of an attack of which every number is another one."""
    settings = create(name, **EVERY[name]).settings()
    for key, value in settings.items():
        if type(value) is int:
            settings[key] = value + 2
        elif type(value) is float:
            settings[key] = (value or 1.0) / 2
    return {**settings, **SWITCHES.get(name, {})}


@pytest.mark.parametrize("name", EVERY)
def test_a_loop_is_traced_once_for_all_batches_and_settings(name: str) -> None:
    model, labels = small_model(), np.arange(7) % 3
    run(name, model, images(2), labels[:2], EVERY[name])
    # The last batch is smaller.
    run(name, model, images(7), labels, other_settings(name), batch_size=3)
    run(name, model, images(1), labels[:1], EVERY[name])
    (loop,) = compiled_parts(model).values()
    assert loop.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    "kin",
    [
        ("FGSM", "RFGSM", "LLC", "RLLC", "BIM", "ILLC", "PGD"),
        ("UMIFGSM", "TMIFGSM", "MIM"),
        ("UAP", "DeepFool"),
    ],
)
def test_kin_share_one_loop(kin: tuple[str, ...]) -> None:
    model = small_model()
    for name in kin:
        run(name, model, images(2), [0, 1], EVERY[name])
    (loop,) = compiled_parts(model).values()
    assert loop.experimental_get_tracing_count() == 1


@pytest.fixture
def _young_heap() -> Iterator[None]:
    """Spares the collector what other tests have left."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_young_heap")
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


@functools.cache
def steep_model() -> keras.Model:
    """Has no slope at a pixel of 0.6 or more."""
    image = keras.Input(SHAPE)
    roots = keras.layers.Flatten()(Root()(keras.ops.relu(0.6 - image)))
    return keras.Model(image, keras.layers.Dense(2)(roots), name="steep")


# SPSA takes no gradient.
@pytest.mark.parametrize("name", sorted(set(EVERY) - {"SPSA"}))
@pytest.mark.parametrize("batch_size", [2, 6])
def test_the_example_whose_gradient_is_not_finite_is_named(
    name: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two examples at once, of which OM shows the model three images each.
    monkeypatch.setattr(optmargin, "_IMAGES_AT_ONCE", 6)
    monkeypatch.setattr(lbfgs, "_AT_ONCE", 2)
    model, shown = steep_model(), 0.2 * images(6)
    shown[4, 1, 2] = 1
    answers = model(shown).numpy().argmax(axis=1)
    targeted = create(name, **EVERY[name]).targeted
    # Those before it have succeeded already.
    done = np.arange(6) < 4
    classes = np.where(done == targeted, answers, 1 - answers)
    settings, named = EVERY[name], "[7]."
    if name == "UAP":
        settings, named = {**settings, "nb_at_once": 6}, "[4] of the background."
    told = f"{name} on 'steep': {NON_FINITE} {named}"
    with pytest.raises(RuntimeError, match=re.escape(told) + "$"):
        run(
            name,
            model,
            shown,
            classes,
            settings,
            ids=[11, 3, 9, 5, 7, 2],
            batch_size=batch_size,
        )
