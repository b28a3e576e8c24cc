import dataclasses
import math
from typing import Any

import keras
import pytest
import tensorflow as tf

from keras_traps.luring.augmentation import Augmentation
from keras_traps.luring.schedules import (
    LURE_AUGMENTATIONS,
    LURE_SCHEDULES,
    LURE_VALIDATION,
    LURING_WEIGHTS,
    SHORT_SCHEDULES,
    CosineSchedule,
    Schedule,
    Variant,
    authors_schedule,
)
from keras_traps.models.luring_victims import VICTIM_RECIPES


def test_the_authors_schedules() -> None:
    mnist, svhn, cifar10 = (
        LURE_SCHEDULES[name] for name in ("mnist", "svhn_cropped", "cifar10")
    )
    assert (mnist.steps, mnist.batch_size) == (50_000, 64)
    assert (svhn.steps, svhn.batch_size) == (50_000, 256)
    assert (cifar10.steps, cifar10.batch_size) == (150_000, 128)
    assert LURING_WEIGHTS == {
        "mnist": 1.0,
        "svhn_cropped": 1.0,
        "cifar10": 0.15,
        "digits": 1.0,
    }
    assert LURE_SCHEDULES.keys() == LURING_WEIGHTS.keys()
    assert LURE_SCHEDULES.keys() == LURE_AUGMENTATIONS.keys()
    assert LURE_SCHEDULES.keys() == LURE_VALIDATION.keys()


def test_the_authors_train_stack_and_auto_by_schedules_of_their_own() -> None:
    for dataset, epochs, batch_size, rates in [
        ("mnist", 5, 28, (1e-3,)),
        ("svhn_cropped", 20, 256, (1e-2,)),
        ("cifar10", 200, 32, (1e-1, 1e-2, 1e-3)),
    ]:
        images = {"mnist": 60_000, "svhn_cropped": 73_257, "cifar10": 50_000}[dataset]
        seen = images - math.ceil(0.17 * images)
        stack = authors_schedule("stack", dataset)
        assert (stack.batch_size, stack.learning_rates) == (batch_size, rates)
        assert stack.steps == epochs * (seen // batch_size)
        for variant in ("ce", "luring"):
            assert authors_schedule(variant, dataset) is LURE_SCHEDULES[dataset]
    cifar10 = authors_schedule("stack", "cifar10")
    assert [border / cifar10.steps for border in cifar10.boundaries] == [0.4, 0.6]
    for dataset, epochs, seen in [("mnist", 50, 49_800), ("svhn_cropped", 5, 60_803)]:
        auto = authors_schedule("auto", dataset)
        assert (auto.batch_size, auto.learning_rates) == (128, (1e-3,))
        assert auto.steps == epochs * math.ceil(seen / 128)


@pytest.mark.parametrize(
    ("variant", "dataset"), [("auto", "cifar10"), ("stack", "digits")]
)
def test_where_the_authors_have_none_it_is_that_of_p(
    variant: Variant, dataset: str
) -> None:
    assert authors_schedule(variant, dataset) is LURE_SCHEDULES[dataset]


@pytest.mark.parametrize(
    ("variant", "dataset", "told"),
    [
        ("Stack", "mnist", r"`variant`.*'stack', 'auto'.*: variant='Stack'"),
        ("stack", "svhn", r"`dataset`.*'mnist', 'svhn_cropped'.*: dataset='svhn'"),
    ],
)
def test_an_unknown_schedule_is_refused(variant: Any, dataset: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        authors_schedule(variant, dataset)


def rate_at(optimizer: keras.optimizers.Optimizer, step: int) -> float:
    optimizer.build([keras.Variable(0.0)])
    optimizer.iterations.assign(step)
    return float(optimizer.learning_rate)


@pytest.mark.parametrize("name", list(LURE_SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 10_000])
def test_a_scaled_schedule_has_the_same_rates_at_the_same_shares(
    name: str, steps: int
) -> None:
    whole = LURE_SCHEDULES[name]
    scaled = whole.scaled(steps)
    assert scaled.steps == steps
    assert scaled.learning_rates == whole.learning_rates
    assert scaled.batch_size == whole.batch_size
    for small, large in zip(scaled.boundaries, whole.boundaries, strict=True):
        assert abs(small / steps - large / whole.steps) <= 0.5 / steps


def test_mnist_at_a_tenth() -> None:
    scaled = LURE_SCHEDULES["mnist"].scaled(5_000)
    assert scaled.boundaries == (3_500, 4_500)
    assert LURE_SCHEDULES["mnist"].scaled(50_000) == LURE_SCHEDULES["mnist"]


def test_the_rates_change_after_their_boundaries() -> None:
    schedule = Schedule(10, 4, (0.5, 0.25, 0.125), (3, 6))
    rates = [rate_at(schedule.optimizer(), step) for step in (0, 3, 4, 6, 7, 9)]
    assert rates == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert rate_at(Schedule(10, 4, (0.5,)).optimizer(), 9) == 0.5


def test_a_rate_that_has_no_step_left_is_passed_over() -> None:
    # Of two steps, the second boundary falls on the last: only two rates are used.
    scaled = Schedule(100, 4, (0.5, 0.25, 0.125), (40, 90)).scaled(2)
    assert scaled.boundaries == (1, 2)
    assert [rate_at(scaled.optimizer(), step) for step in (0, 1)] == [0.5, 0.5]


def test_an_optimizer_of_a_schedule_survives_a_config() -> None:
    optimizer = LURE_SCHEDULES["mnist"].optimizer()
    config = keras.saving.serialize_keras_object(optimizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert rate_at(copy, 36_000) == pytest.approx(2e-4)
    assert tf.debugging.is_numeric_tensor(copy.learning_rate)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rates": (0.0,)}, "learning_rates"),
        ({"learning_rates": (float("nan"),)}, "learning_rates"),
        ({"learning_rates": ()}, "boundaries"),
        ({"boundaries": (5,)}, "boundaries"),
        ({"learning_rates": (0.1, 0.1), "boundaries": (11,)}, "boundaries"),
        ({"learning_rates": (0.1, 0.1), "boundaries": (-1,)}, "boundaries"),
        ({"learning_rates": (0.1,) * 3, "boundaries": (6, 5)}, "boundaries"),
    ],
)
def test_what_does_not_fit_is_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        Schedule(**{"steps": 10, "batch_size": 4, "learning_rates": (0.1,), **settings})


def test_a_short_schedule_rises_and_falls_like_a_cosine() -> None:
    optimizer = CosineSchedule(100, 4, 0.5).optimizer()
    rates = [rate_at(optimizer, step) for step in (0, 2, 4, 52, 100)]
    assert rates == pytest.approx([0.005, 0.2525, 0.5, 0.2525, 0.005])


@pytest.mark.parametrize("steps", [1, 2, 24, 25])
def test_a_short_schedule_may_have_too_few_steps_to_rise(steps: int) -> None:
    optimizer = SHORT_SCHEDULES["mnist"].scaled(steps).optimizer()
    rates = [rate_at(optimizer, step) for step in range(steps + 1)]
    assert max(rates) == pytest.approx(SHORT_SCHEDULES["mnist"].peak_rate)
    assert rates[-1] == pytest.approx(rates[0] if steps > 24 else max(rates) / 100)


def test_there_is_a_short_schedule_of_each() -> None:
    assert SHORT_SCHEDULES.keys() == LURE_SCHEDULES.keys()
    for name, short in SHORT_SCHEDULES.items():
        assert short.steps < LURE_SCHEDULES[name].steps


@pytest.mark.parametrize("name", ["steps", "batch_size", "peak_rate"])
def test_a_short_schedule_names_what_does_not_fit(name: str) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        dataclasses.replace(CosineSchedule(10, 4, 0.1), **{name: 0})


def test_only_the_images_of_cifar10_are_moved() -> None:
    moved = {name: moves for name, moves in LURE_AUGMENTATIONS.items() if moves}
    # Ten degrees, five of 32 pixels: as the target there is trained.
    recipe = VICTIM_RECIPES["cifar10"]
    assert moved == {"cifar10": Augmentation(10.0, 5 / 32)}
    assert moved == {"cifar10": Augmentation(recipe.rotation, recipe.shift)}


def test_p_is_picked_by_as_many_images_as_m() -> None:
    for name, recipe in VICTIM_RECIPES.items():
        assert LURE_VALIDATION[name] == recipe.validation_split == 0.17
