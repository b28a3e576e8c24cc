"""What the variants are trained on, and picked by."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.datasets import Dataset
from keras_traps.luring import best, variant_data, variants
from keras_traps.luring.augmentation import Augmentation
from keras_traps.luring.batches import batches
from keras_traps.luring.best import Picked
from keras_traps.luring.schedules import Variant
from keras_traps.luring.training import Backup
from keras_traps.luring.variants import join
from keras_traps.models.inference import predict
from tests.luring.test_training import KilledError
from tests.luring.test_variants import differ, target_of, train, weights_of


@pytest.mark.parametrize("variant", ["stack", "auto", "ce", "luring"])
def test_images_are_moved_before_anyone_looks_at_them(
    variant: Variant, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        variants, "train_in_stages", lambda model, make, **_: made.append(make)
    )
    target = target_of()
    for moves in (Augmentation(), Augmentation(10.0, 0.2)):
        train(variant, target, digits, augmentation=moves)
    (still,), (moved,) = ([*make(2, 3)] for make in made)
    images = still[0]
    seen, told = moved if isinstance(moved, tuple) else (moved, None)
    assert seen.shape == images.shape
    assert np.abs(seen - images).max() > 0.1
    if variant == "stack":
        np.testing.assert_array_equal(told, still[1])
    elif variant == "auto":
        np.testing.assert_array_equal(told, seen)
    else:
        # M's answers are known to the images as they were only.
        assert still[1].keys() == {"answer", "runner_up"}
        assert told is None


@pytest.mark.parametrize("moves", [Augmentation(), Augmentation(10.0, 0.2)])
@pytest.mark.parametrize("variant", ["auto", "luring"])
def test_the_stages_of_a_training_share_one_copy_of_the_images(
    variant: Variant,
    moves: Augmentation,
    digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    cut: list[Any] = []
    monkeypatch.setattr(
        variants, "train_in_stages", lambda model, make, **_: made.append(make)
    )
    train(variant, target_of(), digits, augmentation=moves)

    def spy(images: Any, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        cut.append(images)
        return batches(images, *args, **kwargs)

    monkeypatch.setattr(variant_data, "batches", spy)
    for first in range(2):
        made[0](first, first + 1)
    assert isinstance(cut[0], tf.Tensor)
    assert cut[1] is cut[0]


class Spy:
    """In the place of `Best`: the second of three stages is the best."""

    made: list["Spy"]

    def __init__(
        self, model: Any, images: Any, labels: Any, *_: Any, answering: Any = None
    ) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.answering = model if answering is None else answering
        self.answers: list[np.ndarray] = []
        self.weights: list[list[np.ndarray]] = []
        self.made.append(self)

    def keep(self, _: int) -> None:
        self.weights.append(weights_of(self.model))
        self.answers.append(predict(self.answering, self.images))

    def restore(self) -> Picked:
        self.model.set_weights(self.weights[1])
        return Picked(4, 1.0)


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> list[Spy]:
    monkeypatch.setattr(Spy, "made", [], raising=False)
    monkeypatch.setattr(variants, "Best", Spy)
    return Spy.made


@pytest.mark.parametrize("variant", ["stack", "ce", "luring"])
def test_the_best_p_is_kept_by_images_that_it_does_not_see(
    variant: Variant, digits: Dataset, spies: list[Spy]
) -> None:
    target = target_of()
    told: list[Picked] = []
    model = train(
        variant,
        target,
        digits,
        validation_split=0.25,
        stage=2,
        on_pick=told.append,
    )
    assert told == [(4, 1.0)]
    (spy,) = spies
    assert spy.model is model
    assert len(spy.images) == 6
    assert len(spy.weights) == 3
    for kept, picked, last in zip(weights_of(model), *spy.weights[1:], strict=True):
        np.testing.assert_array_equal(kept, picked)
        assert (kept != last).any()
    # What is asked is M∘P, as it is at that stage.
    whole = model if variant == "stack" else join(model, target)
    np.testing.assert_array_equal(predict(whole, spy.images), spy.answers[1])
    place = {image.tobytes(): row for row, image in enumerate(digits.images)}
    rows = [place[image.tobytes()] for image in spy.images]
    right = digits.labels if variant == "stack" else answers_of(target, digits)
    np.testing.assert_array_equal(spy.labels, right[rows])


def answers_of(target: keras.Model, data: Dataset) -> np.ndarray:
    return predict(target, data.images).argmax(axis=1)


def test_held_out_images_are_not_trained_on(
    digits: Dataset, spies: list[Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def look(_: keras.Model, make: Any, *, steps: int, **__: Any) -> None:
        seen.extend(images for images, *_ in make(0, steps).as_numpy_iterator())

    monkeypatch.setattr(variants, "train_in_stages", look)
    monkeypatch.setattr(Spy, "restore", lambda _: None)
    train("luring", target_of(), digits, validation_split=0.25)
    trained = {image.tobytes() for images in seen for image in images}
    (spy,) = spies
    held = {image.tobytes() for image in spy.images}
    assert len(trained) == 18
    assert not trained & held


def test_what_was_picked_before_a_kill_is_kept_after_it(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, save = best.Best.keep, Backup.save

    def first_is_best(self: Any, step: int) -> None:
        right = np.eye(10)[(self._labels + (step > 3)) % 10]
        with monkeypatch.context() as patch:
            patch.setattr(best, "predict", lambda *_: right)
            keep(self, step)

    def kill(self: Backup, model: keras.Model) -> None:
        save(self, model)
        raise KilledError

    told: list[Picked] = []
    settings: dict[str, Any] = {"validation_split": 0.25, "on_pick": told.append}
    target = target_of()
    monkeypatch.setattr(best.Best, "keep", first_is_best)
    plain = train("luring", target, digits, **settings)
    backup = Backup(tmp_path / "b", {})
    with monkeypatch.context() as patch:
        patch.setattr(Backup, "save", kill)
        with pytest.raises(KilledError):
            train("luring", target, digits, backup=backup, **settings)
    backup = Backup(tmp_path / "b", {}, resume=True)
    resumed = train("luring", target, digits, backup=backup, **settings)
    assert told == [(3, 1.0), (3, 1.0)]
    assert not any(differ(plain, resumed))


@pytest.mark.parametrize("variant", ["stack", "luring"])
def test_what_it_starts_from_is_among_those_to_pick_from(
    variant: Variant, digits: Dataset, spies: list[Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target_of()
    start = train(variant, target, digits, seed=5)
    steps: list[int] = []
    keep = Spy.keep

    def note(self: Spy, step: int) -> None:
        steps.append(step)
        keep(self, step)

    monkeypatch.setattr(Spy, "keep", note)
    settings: dict[str, Any] = {"validation_split": 0.25, "stage": 2}
    train(variant, target, digits, start=start, **settings)
    assert steps == [0, 2, 4, 6]
    for taken, weight in zip(spies[0].weights[0], weights_of(start), strict=True):
        np.testing.assert_array_equal(taken, weight)


@pytest.mark.parametrize(
    ("variant", "share"), [("auto", 0.25), ("luring", 0.0), ("stack", 0.0)]
)
def test_the_last_p_is_kept_where_none_is_picked(
    variant: Variant, share: float, digits: Dataset, spies: list[Spy]
) -> None:
    train(variant, target_of(), digits, validation_split=share)
    assert not spies


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.01])
def test_a_share_that_holds_out_nothing_or_all_is_refused(
    share: float, digits: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"argument `validation_split`.*Received"):
        train("luring", target_of(), digits, validation_split=share)
