import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import lbfgs
from keras_traps.attacks.lbfgs import BLB, run_together
from tests.attacks.nearest import distance_to_plane
from tests.attacks.victims import TWO_CLASSES, some_images, tanh_net, two_classes

Floats = npt.NDArray[np.float32]

Doubles = npt.NDArray[np.float64]


def test_with_many_searches_the_change_is_the_shortest_way_to_the_boundary() -> None:
    images = some_images(4)
    attack = BLB(binary_search_steps=12)
    result = attack(two_classes(), images, [0] * 4, y_target=[1] * 4)
    assert result.success.all()
    shortest = distance_to_plane(images, TWO_CLASSES, 0, 1)
    np.testing.assert_allclose(result.l2, shortest, rtol=0.01)


def test_an_example_fares_alike_however_many_are_attacked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, images = tanh_net().model, some_images(7)
    seen = model(images).numpy().argmax(axis=1)
    aims = (seen + 1) % 3
    whole = BLB()(model, images, seen, y_target=aims)
    monkeypatch.setattr(lbfgs, "_AT_ONCE", 2)
    parts = BLB()(model, images, seen, y_target=aims, batch_size=5)
    np.testing.assert_allclose(parts.images, whole.images, atol=1e-3)
    np.testing.assert_array_equal(parts.success, whole.success)


def test_an_optimiser_that_rounds_to_below_black_leaves_no_image_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class End(NamedTuple):
        x: Doubles

    def minimize(objective: Callable[[Doubles], Any], x0: Doubles, **_: Any) -> End:
        found = np.where(np.arange(len(x0)) % 2, 1 + 1e-9, -4e-19)
        objective(found)
        return End(found)

    monkeypatch.setattr(lbfgs, "minimize", minimize)
    model, images = tanh_net().model, some_images(3)
    corner = np.broadcast_to(np.arange(images[0].size) % 2, (1, images[0].size))
    aim = model(corner.reshape(1, *images.shape[1:]).astype(np.float32)).numpy()
    target = int(aim.argmax())
    others = np.full(3, (target + 1) % 3)
    result = BLB()(model, images, others, y_target=[target] * 3)
    assert result.success.all()
    moved = result.images[result.l0 > 0]
    assert len(moved)
    np.testing.assert_array_equal(
        moved.reshape(len(moved), -1), corner.repeat(len(moved), 0)
    )


@pytest.mark.slow
def test_what_is_repeated_is_the_same_to_the_last_bit() -> None:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, activation="relu") for _ in range(2)]
    last = [keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, *last])
    images = np.random.default_rng(0).random((40, 8, 8, 1), np.float32)
    seen = model(images).numpy().argmax(axis=1)
    attack = BLB(binary_search_steps=2, max_iterations=20, initial_const=1.0)

    first, *others = (
        attack(model, images, seen, y_target=(seen + 1) % 10) for _ in range(3)
    )

    assert 10 < first.success.sum() < 40
    for other in others:
        for field in dataclasses.fields(first):
            one, same = getattr(first, field.name), getattr(other, field.name)
            np.testing.assert_array_equal(one, same)


Ask = Callable[[Any], Any]

Search = Callable[[Ask], None]


class Squares:
    """Answers with squares, and remembers what it was asked at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, rows: list[int], questions: list[Any]) -> list[Any]:
        self.batches.append(questions)
        return [question**2 for question in questions]


def counting(start: int, questions: int, into: list[int] | None = None) -> Search:
    """Asks about `start`, `start + 1`, ... and keeps the answers."""

    def search(ask: Ask) -> None:
        for step in range(questions):
            time.sleep(0.01 * (start % 3))
            (into if into is not None else []).append(ask(start + step))

    return search


def test_batches_are_the_same_whichever_thread_comes_late() -> None:
    squares = Squares()
    searches = [counting(10 * n, 1 + n % 3) for n in range(6)]
    run_together(searches, squares, at_once=3)
    # Search 0 asks once, 1 twice, 2 thrice, and so again; one that ends makes place.
    expected = [[0, 10, 20], [11, 21, 30], [22, 40, 50], [41, 51], [52]]
    assert squares.batches == expected


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failure_to_answer_is_raised_and_no_thread_is_left(
    kind: type[BaseException],
) -> None:
    def answer(rows: list[int], questions: list[Any]) -> list[Any]:
        if 1 in questions:
            raise kind("no answer")
        return questions

    before = threading.active_count()
    with pytest.raises(kind, match="no answer"):
        run_together([counting(0, 5), counting(10, 5)] * 3, answer, at_once=2)
    assert threading.active_count() == before


def test_a_search_that_fails_stops_the_others() -> None:
    def failing(ask: Ask) -> None:
        ask(100)
        raise RuntimeError("lost")

    squares = Squares()
    with pytest.raises(RuntimeError, match="lost"):
        run_together([counting(0, 1000), failing], squares, at_once=2)
    assert len(squares.batches) < 1000
