from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import deepfool
from keras_traps.attacks.base import Batch
from keras_traps.attacks.deepfool import UAP, DeepFool, UniversalPerturbation
from keras_traps.attacks.loop import Finished
from tests.attacks.victims import SHAPE, TWO_CLASSES, linear, some_images, two_classes

NORMAL = (TWO_CLASSES[:, 1] - TWO_CLASSES[:, 0]).astype(np.float64)


def answers(model: keras.Model, images: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return model(images).numpy().argmax(axis=1)


def of_class_0(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    images = some_images(6 * count, seed)
    chosen = images[answers(two_classes(), images) == 0][:count]
    assert len(chosen) == count
    return chosen


def learnt(
    model: keras.Model,
    background: npt.NDArray[np.float32],
    seed: int = 0,
    **settings: Any,
) -> UniversalPerturbation:
    labels = np.zeros(1, np.int64)
    shown = background[:1]
    batch = Batch(model, "cross_entropy", shown, labels, labels, seed, background)
    # The largest ball, unless one is asked for.
    return UAP(**{"eps": 1.0, **settings}).learn(batch)


def test_the_steps_of_images_looked_at_together_are_added_up() -> None:
    images = of_class_0(3)
    together = learnt(two_classes(), images, nb_at_once=3)
    # In a linear model each step is the gap over the squared norm, along the normal.
    gaps = -(images.reshape(3, -1).astype(np.float64) @ NORMAL)
    lengths = 1.02 * (gaps / np.linalg.norm(NORMAL) + 1e-4)
    expected = np.clip(lengths.sum() * NORMAL / np.linalg.norm(NORMAL), -1, 1)
    np.testing.assert_allclose(together.perturbation.reshape(-1), expected, atol=1e-5)


def test_passes_end_with_the_one_that_fools_enough_and_at_the_limit() -> None:
    background = of_class_0(40, seed=1)
    easy = learnt(two_classes(), background, fooling_rate=0.05, max_iter=9)
    assert easy.passes == 1
    assert easy.fooling_rate >= 0.05
    # So small a ball holds nothing that fools an image.
    hard = learnt(two_classes(), background, eps=1e-4, fooling_rate=0.99, max_iter=3)
    assert hard.passes == 3
    assert hard.fooling_rate < 0.99


def test_the_pass_that_fools_most_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    background = np.full((10, *SHAPE), 0.5, np.float32)
    before = np.zeros(10, np.int64)
    fooled = iter([0, 3, 7, 5, 7, 6])

    def answers_in_turn(*_: Any) -> npt.NDArray[np.int64]:
        return before + (np.arange(10) < next(fooled))

    def cross(_: Any, __: Any, moved: npt.NDArray[np.float32], *___: Any) -> Finished:
        return Finished(tf.constant(moved + np.float32(2**-10)), tf.zeros(10))

    monkeypatch.setattr(deepfool, "_answers", answers_in_turn)
    monkeypatch.setattr(DeepFool, "cross", cross)
    made = learnt(
        two_classes(), background, nb_at_once=10, fooling_rate=0.9, max_iter=5
    )
    assert (made.passes, made.fooling_rate) == (5, 0.7)
    # After four steps: of equal passes the later one.
    np.testing.assert_allclose(made.perturbation, 4 * 10 / 2**10, rtol=1e-5)


def test_it_is_learnt_once_for_weights_a_background_a_seed_and_settings() -> None:
    model, background = linear(TWO_CLASSES), of_class_0(20)
    first = learnt(model, background)
    assert learnt(model, background.copy()) is first
    assert learnt(model, background, seed=1) is not first
    assert learnt(model, background, eps=0.2) is not first
    assert learnt(model, background[:19]) is not first
    model.layers[-1].set_weights([TWO_CLASSES[::-1].copy()])
    after = learnt(model, background)
    fresh = learnt(linear(TWO_CLASSES[::-1].copy()), background)
    np.testing.assert_array_equal(after.perturbation, fresh.perturbation)
    assert (after.perturbation != first.perturbation).any()
