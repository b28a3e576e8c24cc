from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_traps.datasets import Dataset
from keras_traps.luring import best, targets
from keras_traps.luring.targets import train_target
from keras_traps.luring.training import Backup
from keras_traps.models.inference import predict
from keras_traps.models.luring_victims import VictimRecipe

# 16 images are trained on, 4 to a step, and 4 say which epoch is the best.
RECIPE = VictimRecipe(3, 4, (3e-2, 1e-2), (2,), validation_split=0.2)


@pytest.fixture(scope="module")
def bright() -> Dataset:
    """Dark and bright images, in turn."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    pixels = rng.integers(0, 100, (20, 6, 6, 1)) + 150 * labels[:, None, None, None]
    names = ("dark", "bright")
    return Dataset(
        "mine", "train", pixels.astype(np.uint8), labels, 2, names, "made here"
    )


def tiny_classifier() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(2),
        ]
    )


def train(data: Dataset, recipe: VictimRecipe = RECIPE, **settings: Any) -> keras.Model:
    model = tiny_classifier()
    score = train_target(model, data, recipe, verbose=False, **settings)
    assert 0 <= score <= 1
    return model


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.weights]


def test_it_learns_and_makes_the_recipes_steps(bright: Dataset) -> None:
    assert int(train(bright).optimizer.iterations) == 3 * 16 // 4
    model = train(bright, VictimRecipe(30, 4, (1e-2,), validation_split=0.2))
    answers = predict(model, bright.images).argmax(axis=1)
    assert (answers == bright.labels).mean() >= 0.9


def test_steps_take_the_place_of_epochs(bright: Dataset) -> None:
    model = train(bright, steps=5)
    assert int(model.optimizer.iterations) == 5
    # The boundary after two of three epochs, scaled: round(8 * 5 / 12).
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-2)


def test_the_best_epoch_is_kept_and_not_the_last(
    bright: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.25, 0.75, 0.5])
    seen: list[list[np.ndarray]] = []

    def scripted(model: keras.Model, images: np.ndarray) -> np.ndarray:
        seen.append(weights_of(model))
        # The share of the four validation images whose label is answered.
        wrong = 4 - round(4 * next(scores))
        answers = held.copy()
        answers[:wrong] = 1 - answers[:wrong]
        return np.eye(2)[answers]

    held = bright.take(20, seed=0).labels[16:]
    monkeypatch.setattr(best, "predict", scripted)
    model = tiny_classifier()
    assert train_target(model, bright, RECIPE, verbose=False) == 0.75
    assert len(seen) == 3
    for kept, better, last in zip(weights_of(model), seen[1], seen[2], strict=True):
        np.testing.assert_array_equal(kept, better)
        assert (kept != last).any()


class KilledError(Exception):
    """Ends a training as a signal would."""


@pytest.mark.parametrize(("kind", "epoch"), [("plain", 0), ("augmented", 2)])
def test_one_that_was_killed_ends_with_the_same_weights(
    kind: str,
    epoch: int,
    bright: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = RECIPE
    if kind == "augmented":
        recipe = VictimRecipe(3, 4, (3e-2,), (), 10.0, 0.2, validation_split=0.2)
    plain = train(bright, recipe)
    keep = best.Best.keep
    calls: list[int] = []

    def kill(self: Any, done: int) -> None:
        calls.append(done)
        if len(calls) == epoch + 1:
            raise KilledError
        keep(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(best.Best, "keep", kill)
        with pytest.raises(KilledError):
            train(bright, recipe, backup=Backup(tmp_path / "b", {}))
    resumed = train(bright, recipe, backup=Backup(tmp_path / "b", {}, resume=True))
    for a, b in zip(weights_of(resumed), weights_of(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_seed_decides(bright: Dataset) -> None:
    first, again, other = (weights_of(train(bright, seed=seed)) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_the_augmentation_is_asked_for_by_the_recipe(bright: Dataset) -> None:
    order = np.array([[0, 1], [2, 3]], np.int32)
    images, labels = bright.images, bright.labels
    made = {}
    for name, shift in (("plain", 0.0), ("moved", 0.3)):
        recipe = VictimRecipe(1, 2, (1e-3,), (), 0.0, shift)
        make = targets._make_data(images, labels, order, recipe, 0)
        made[name] = [x for x, _ in make(0, 2).as_numpy_iterator()]
        second = [x for x, _ in make(1, 2).as_numpy_iterator()]
        # A step sees the same where the training goes on from there.
        np.testing.assert_array_equal(second[0], made[name][1])
    np.testing.assert_array_equal(made["plain"], images[order])
    assert np.abs(np.subtract(made["moved"], made["plain"])).max() > 0.05
