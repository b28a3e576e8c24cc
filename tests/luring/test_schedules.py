import math
from typing import Any

import keras
import pytest

from keras_traps.luring.schedules import LURE_RECIPES, Schedule, authors_schedule
from keras_traps.models.architectures import VICTIM_RECIPES


def test_the_authors_schedules() -> None:
    sizes = {
        name: (recipe.authors.steps, recipe.authors.batch_size, recipe.luring_weight)
        for name, recipe in LURE_RECIPES.items()
    }
    assert sizes.pop("digits")
    assert sizes == {
        "mnist": (50_000, 64, 1.0),
        "svhn_cropped": (50_000, 256, 1.0),
        "cifar10": (150_000, 128, 0.15),
    }


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
            assert authors_schedule(variant, dataset) is LURE_RECIPES[dataset].authors
    # They have none for this one.
    assert authors_schedule("auto", "cifar10") is LURE_RECIPES["cifar10"].authors
    cifar10 = authors_schedule("stack", "cifar10")
    assert [border / cifar10.steps for border in cifar10.boundaries] == [0.4, 0.6]
    for dataset, epochs, seen in [("mnist", 50, 49_800), ("svhn_cropped", 5, 60_803)]:
        auto = authors_schedule("auto", dataset)
        assert (auto.batch_size, auto.learning_rates) == (128, (1e-3,))
        assert auto.steps == epochs * math.ceil(seen / 128)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`dataset`.*'mnist', 'svhn_cropped'.*'svhn'"):
        authors_schedule("stack", "svhn")


def rate_at(optimizer: keras.optimizers.Optimizer, step: int) -> float:
    optimizer.build([keras.Variable(0.0)])
    optimizer.iterations.assign(step)
    return float(optimizer.learning_rate)


def test_a_scaled_schedule_has_the_same_rates_at_the_same_shares() -> None:
    whole = Schedule(50, 64, (0.5, 0.25, 0.125), (35, 45))
    assert whole.scaled(20) == Schedule(20, 64, (0.5, 0.25, 0.125), (14, 18))
    assert whole.scaled(1).boundaries == (1, 1)


def test_the_rates_change_after_their_boundaries() -> None:
    schedule = Schedule(10, 4, (0.5, 0.25, 0.125), (3, 6))
    rates = [rate_at(schedule.optimizer(), step) for step in (0, 3, 4, 6, 7, 9)]
    assert rates == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"batch_size": 2.0}, "batch_size"),
        ({"learning_rates": (0.1, 0.1), "boundaries": (5,), "cosine": True}, "bound"),
        ({"learning_rates": (0.0,)}, "learning_rates"),
        ({"boundaries": (5,)}, "boundaries"),
        ({"learning_rates": (0.1,) * 3, "boundaries": (6, 5)}, "boundaries"),
    ],
)
def test_what_does_not_fit_is_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}"):
        Schedule(**{"steps": 10, "batch_size": 4, "learning_rates": (0.1,), **settings})


def test_a_short_schedule_rises_and_falls_like_a_cosine() -> None:
    optimizer = Schedule(100, 4, (0.5,), cosine=True).optimizer()
    rates = [rate_at(optimizer, step) for step in (0, 2, 4, 52, 100)]
    assert rates == pytest.approx([0.005, 0.2525, 0.5, 0.2525, 0.005])


@pytest.mark.parametrize("steps", [1, 25])
def test_a_short_schedule_may_have_too_few_steps_to_rise(steps: int) -> None:
    short = LURE_RECIPES["mnist"].short
    optimizer = short.scaled(steps).optimizer()
    rates = [rate_at(optimizer, step) for step in range(steps + 1)]
    assert max(rates) == pytest.approx(short.learning_rates[0])
    assert rates[-1] == pytest.approx(rates[0] if steps > 24 else max(rates) / 100)


def test_only_the_images_of_cifar10_are_moved() -> None:
    moved = {
        name: (recipe.rotation, recipe.shift)
        for name, recipe in VICTIM_RECIPES.items()
        if recipe.rotation or recipe.shift
    }
    # Ten degrees, five of 32 pixels.
    assert moved == {"cifar10": (10.0, 5 / 32)}
