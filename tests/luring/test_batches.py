import numpy as np
import pytest

from keras_traps.luring import batch_order
from keras_traps.luring.batches import batches, hold


@pytest.mark.parametrize("order", [None, np.array([[0, 1]])])
def test_nothing_tunes_the_pipeline_on_a_thread_that_fit_would_wait_for(
    images: np.ndarray, order: np.ndarray | None
) -> None:
    data = batches(images, np.zeros(len(images)), order=order)
    assert data.options().autotune.enabled is False
    # Nor where it is handed on, as to augment it.
    later = data.map(lambda pixels, told: (pixels, told))
    assert later.options().autotune.enabled is False


def test_every_image_is_seen_before_one_is_seen_again() -> None:
    order = batch_order(10, 4, 5, seed=0)
    assert order.shape == (5, 4)
    for start in (0, 10):
        assert sorted(order.reshape(-1)[start : start + 10]) == list(range(10))
    assert (order.reshape(-1)[:10] != order.reshape(-1)[10:]).any()


def test_a_longer_training_begins_as_a_shorter_one() -> None:
    long, short = (batch_order(10, 4, steps, seed=3) for steps in (9, 2))
    np.testing.assert_array_equal(long[:2], short)
    assert (batch_order(10, 4, 9, seed=4) != long).any()


def test_what_is_held_is_not_copied_again() -> None:
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.int32)}
    held = hold(arrays)
    again = hold(held)
    assert all(again[name] is held[name] for name in arrays)
