from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps.datasets import Dataset
from keras_traps.luring.best import Best, hold_out
from keras_traps.luring.training import Backup

IMAGES = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)


def numbered(count: int) -> Dataset:
    pixels = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Dataset("mine", "train", pixels, np.arange(count) % 2, 2, ("a", "b"), "here")


def answering(classes: list[int]) -> keras.Model:
    """A model that answers to each of `IMAGES` with the class given for it."""
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    answer(model, classes)
    return model


def answer(model: keras.Model, classes: list[int]) -> None:
    model.set_weights([np.eye(2, dtype=np.float32)[classes], np.zeros(2, np.float32)])


def kernel(model: keras.Model) -> list[int]:
    return [int(row.argmax()) for row in model.get_weights()[0]]


def test_every_image_is_trained_on_or_held_out() -> None:
    data = numbered(10)
    kept, held = hold_out(data, 0.39, seed=1)
    assert (len(kept), len(held)) == (7, 3)
    numbers = np.concatenate([kept.pixels, held.pixels]).ravel()
    np.testing.assert_array_equal(np.sort(numbers), np.arange(10))
    for part in (kept, held):
        np.testing.assert_array_equal(part.labels, part.pixels.ravel() % 2)
    again, other = (hold_out(data, 0.39, seed=seed)[1] for seed in (1, 2))
    np.testing.assert_array_equal(again.pixels, held.pixels)
    assert (other.pixels != held.pixels).any()


@pytest.mark.parametrize("share", [0.0, 0.09, 1.0])
def test_none_or_all_cannot_be_held_out(share: float) -> None:
    with pytest.raises(ValueError, match=r"some of 10 images.*Received: "):
        hold_out(numbered(10), share, seed=0)


def test_the_first_of_the_best_is_restored() -> None:
    model = answering([0, 0, 0, 0])
    best = Best(model, IMAGES, np.array([0, 0, 1, 1]))
    tried = ([1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0])
    for step, classes in enumerate(tried):
        answer(model, classes)
        best.keep(step)
    assert best.restore() == (1, 0.75)
    assert kernel(model) == [0, 0, 1, 0]


def test_what_is_asked_may_hold_the_model_as_a_part() -> None:
    model, whole = answering([0, 0, 0, 0]), answering([0, 1, 0, 1])
    best = Best(model, IMAGES, np.array([0, 1, 0, 1]), answering=whole)
    best.keep(0)
    answer(model, [1, 1, 1, 1])
    answer(whole, [0, 1, 0, 0])
    best.keep(1)
    assert best.restore() == (0, 1.0)
    assert kernel(model) == [0, 0, 0, 0]
    assert kernel(whole) == [0, 1, 0, 0]


def test_the_best_outlives_the_process_in_the_backup(tmp_path: Path) -> None:
    labels = np.array([0, 0, 1, 1])
    first, backup = answering([0, 0, 1, 1]), Backup(tmp_path / "b", {})
    Best(first, IMAGES, labels, backup).keep(7)
    backup.save(first)
    second = answering([0, 0, 0, 0])
    best = Best(second, IMAGES, labels, Backup(tmp_path / "b", {}, resume=True))
    best.keep(8)
    assert best.restore() == (7, 1.0)
    assert kernel(second) == [0, 0, 1, 1]


def test_one_that_was_killed_before_its_first_save_leaves_no_best_behind(
    tmp_path: Path,
) -> None:
    labels = np.array([0, 0, 1, 1])
    Best(
        answering([0, 0, 1, 1]), IMAGES, labels, Backup(tmp_path / "b", {"seed": 0})
    ).keep(1)
    other = answering([0, 0, 0, 0])
    best = Best(other, IMAGES, labels, Backup(tmp_path / "b", {"seed": 1}))
    best.keep(1)
    assert best.restore() == (1, 0.5)
    assert kernel(other) == [0, 0, 0, 0]
