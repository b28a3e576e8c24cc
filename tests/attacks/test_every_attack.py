"""Facts that hold for every attack of the registry."""

import functools
import gc
import re
import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import Loss, create, lbfgs, names, optimization
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
# One of each kind of loop.
LOOPS = [
    *("PGD", "UMIFGSM", "DIM-TI", "MIML2", "BPDA", "UAP", "OM", "SPSA", "JSMA"),
    *("BLB", "CW2", "EAD", "APGD", "APGD-T", "FAB", "SelectivePGD", "LagrangianPGD"),
    *("TI-PGD", "EOT-PGD"),
]


def model_of(policy: str = "float32") -> keras.Model:
    image = keras.Input(SHAPE)
    hidden = keras.layers.Conv2D(3, 2, activation="tanh", dtype=policy)(image)
    flat = keras.layers.Flatten(dtype=policy)(hidden)
    model = keras.Model(image, keras.layers.Dense(3, dtype=policy)(flat))
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(0, 1, w.shape) for w in model.get_weights()])
    return model


@functools.cache
def one_model(policy: str = "float32") -> keras.Model:
    return model_of(policy)


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


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_traced_once_for_all_batches_and_settings(name: str) -> None:
    model, labels = one_model(), np.arange(7) % 3
    run(name, model, images(2), labels[:2], EVERY[name])
    # The last batch is smaller.
    run(name, model, images(7), labels, other_settings(name), batch_size=3)
    run(name, model, images(1), labels[:1], EVERY[name])
    counts = {
        key: loop.experimental_get_tracing_count()
        for key, loop in compiled_parts(model).items()
    }
    assert counts == dict.fromkeys(counts, 1)


@pytest.mark.parametrize(
    "kin",
    [
        ("FGSM", "RFGSM", "LLC", "RLLC", "BIM", "ILLC", "PGD"),
        ("UMIFGSM", "TMIFGSM", "MIM"),
        ("UAP", "DeepFool"),
    ],
)
def test_kin_share_one_loop(kin: tuple[str, ...]) -> None:
    model = model_of()
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


# cleverhans keeps its traces, and with them the weights.
@pytest.mark.usefixtures("_young_heap")
@pytest.mark.parametrize(
    "name", ["BPDA", "UAP", "JSMA", "OM", "APGD", "FAB", "SelectivePGD"]
)
def test_a_model_and_its_weights_are_freed_after_an_attack(name: str) -> None:
    model = model_of()
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


class Frames(keras.layers.Layer):
    """Notes how many of the package's frames its calls are within."""

    counts: ClassVar[list[int]] = []

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        frame: FrameType | None = sys._getframe()
        count = 0
        while frame is not None:
            count += "/keras_traps/" in frame.f_code.co_filename
            frame = frame.f_back
        self.counts.append(count)
        return inputs


@pytest.mark.parametrize(
    ("name", "output"), [("PGD", "scores"), ("DeepFool", "logits"), ("JSMA", "scores")]
)
def test_few_frames_lie_between_a_call_and_the_gradient(name: str, output: str) -> None:
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(Frames()(image))
    model = keras.Model(image, keras.layers.Dense(3)(flat))
    Frames.counts.clear()

    run(name, model, images(2), [0, 1], EVERY[name], output=output)

    # Where a gradient is first asked for; and the outputs, or, where nobody looks at
    # these before, the loop.
    assert len(Frames.counts) == 2
    assert max(Frames.counts) <= 8


@functools.cache
def steep_model() -> keras.Model:
    """Has no slope at a pixel of 0.6 or more."""
    image = keras.Input(SHAPE)
    roots = keras.layers.Flatten()(Root()(keras.ops.relu(0.6 - image)))
    return keras.Model(image, keras.layers.Dense(2)(roots), name="steep")


# One of each loop that takes a gradient.
NAMING = [
    *("PGD", "UAP", "DeepFool", "OM", "BPDA", "JSMA", "BLB", "EAD", "APGD", "FAB"),
    "SelectivePGD",
]


@pytest.mark.parametrize("name", NAMING)
def test_the_example_whose_gradient_is_not_finite_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two examples at once, of which OM shows the model three images each.
    monkeypatch.setattr(optimization, "_IMAGES_AT_ONCE", 6)
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
    ids = [11, 3, 9, 5, 7, 2]
    with pytest.raises(RuntimeError, match=re.escape(told) + "$"):
        run(name, model, shown, classes, settings, ids=ids)


ASKING = ["NES", "Square", "RayS", "HopSkipJump"]
RANDOM = [
    *("RFGSM", "RLLC", "PGD", "BPDA", "SPSA", "UAP", "DIM", "DIM-TI", "OM", "Noise"),
    *("NES", "Square", "HopSkipJump", "APGD", "APGD-T"),
    *("SelectivePGD", "OrthogonalPGD", "LagrangianPGD"),
    *("cleverhans/PGD", "cleverhans/Madry", "cleverhans/SPSA"),
    *("TI-PGD", "EOT-PGD", "SPSA-Q"),
]


@pytest.mark.parametrize("name", EVERY)
def test_a_result_keeps_its_promises_and_follows_from_the_seed(name: str) -> None:
    settings = {**EVERY[name], "nb_images": 2} if name == "UAP" else EVERY[name]
    shown = np.random.default_rng(1).choice([0.0, 1.0, 0.05, 0.95, 0.5], (6, *SHAPE))
    result, same, other = (
        run(name, one_model(), shown, np.arange(6) % 3, settings, seed=seed)
        for seed in (1, 1, 2)
    )
    made = create(name, **settings)
    assert result.images.dtype == np.float32
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    for bound, reach in ((made.linf_bound, result.linf), (made.l2_bound, result.l2)):
        assert bound is None or reach.max() <= bound + 1e-5
    answers = one_model()(result.images).numpy().argmax(axis=1)
    np.testing.assert_array_equal(result.answers, answers)
    np.testing.assert_array_equal(result.images, same.images)
    # OM's noises may change nothing in so short a search; they are looked at elsewhere.
    assert name == "OM" or (result.images != other.images).any() == (name in RANDOM)


# Rounding decides on the steps of BLB's line search.
@pytest.mark.parametrize(
    "name", [*sorted(set(LOOPS) - {"BLB"}), "RFGSM", "Noise", *ASKING]
)
def test_an_example_fares_alike_in_any_batch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OM's three images of each example.
    monkeypatch.setattr(optimization, "_IMAGES_AT_ONCE", 6)
    model, shown, classes = one_model(), images(7), np.arange(7) % 3
    ids = np.array([5, 3, 90, 2**40, 0, 1, 7])
    more: dict[str, Any] = {"seed": 3, "background": shown}
    whole = run(name, model, shown, classes, EVERY[name], ids=ids, **more)
    order, more["batch_size"] = [6, 0, 4], 2
    part = (shown[order], classes[order])
    parts = run(name, model, *part, EVERY[name], ids=ids[order], **more)
    # An L2 step, a search or Adam carries rounding on; signs do not.
    np.testing.assert_allclose(parts.images, whole.images[order], atol=1e-4)
    np.testing.assert_array_equal(parts.iterations, whole.iterations[order])


@functools.cache
def three_classes() -> keras.Model:
    """A linear model without ties, of which the two losses lead to different images."""
    image = keras.Input(SHAPE)
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    dense.set_weights([np.random.default_rng(2).normal(0, 0.3, (16, 3))])
    return model


def by_loss(name: str, loss: Loss | None) -> npt.NDArray[np.float32]:
    shown, classes = images(30) / 2, np.arange(30) % 3
    return run(name, three_classes(), shown, classes, EVERY[name], loss=loss).images


@pytest.mark.parametrize("name", EVERY)
def test_an_attack_follows_the_losses_that_it_declares_and_no_others(name: str) -> None:
    losses = create(name, **EVERY[name]).losses
    if len(losses) > 1:
        assert losses[:2] == ("cross_entropy", "margin")
        own = by_loss(name, None)
        assert np.abs(own - by_loss(name, "margin")).max() > 0.01
        assert name != "PGD" or (own == by_loss(name, "cross_entropy")).all()
    unknown: Any = "hinge"
    for other in {"cross_entropy", "margin", "dlr", unknown} - set(losses):
        told = rf"`loss`. {name} follows .*Received: loss='{other}'"
        with pytest.raises(ValueError, match=told):
            by_loss(name, other)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *(("PGD", policy) for policy in ("mixed_bfloat16", "float64")),
        *((name, "mixed_float16") for name in ("MIML2", "JSMA", "SPSA", "DeepFool")),
    ],
)
def test_a_model_of_another_precision_is_attacked(policy: str, name: str) -> None:
    settings = {"max_iter": 20} if name == "DeepFool" else EVERY[name]
    result = run(name, one_model(policy), images(4), [0, 1, 2, 0], settings)
    assert result.images.dtype == np.float32
    assert np.isfinite(result.l2).all()
    assert result.l2.max() > 0


def test_a_large_c_is_not_lost_in_half_precision() -> None:
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten(dtype="mixed_float16")(image)
    dense = keras.layers.Dense(2, use_bias=False, dtype="mixed_float16")
    model = keras.Model(image, dense(flat))
    # The second class is never above the first: pixels are not below 0. The last of
    # ten searches takes 1e10.
    dense.set_weights([np.full((16, 2), [2.0, 1.0])])
    settings = {"binary_search_steps": 10, "max_iterations": 20, "learning_rate": 0.3}
    result = run("CW2", model, images(2), [1, 1], settings)
    assert not result.success.any()
    np.testing.assert_array_equal(result.images, images(2))
    assert (result.iterations > 0).all()
