import numpy as np
import pytest

from keras_traps.evaluation.pairing import Pair, compare, on_common_images


def test_the_test_is_mcnemars_exact_one() -> None:
    first = np.array([True] * 9 + [False] + [True] * 5)
    second = np.array([False] * 9 + [True] + [True] * 5)
    for pair, counts in (
        (compare(first, second), (15, 9, 1)),
        (compare(second, first), (15, 1, 9)),
    ):
        assert (pair.images, pair.ahead, pair.behind) == counts
        # 2 (1 + 10) / 2^10.
        assert pair.p_value == pytest.approx(22 / 1024)


def test_what_never_differs_is_chance() -> None:
    same = np.array([True, False])
    assert compare(same, same) == Pair(2, 0, 0, 1.0)
    assert compare(same[:0], same[:0]) == Pair(0, 0, 0, 1.0)


def test_each_image_is_compared_with_itself() -> None:
    first = np.array([7, 1, 5, 2]), np.array([True, True, False, False])
    second = np.array([2, 9, 7, 5]), np.array([True, True, False, False])
    mine, other = on_common_images(first, second)
    # 2, 5 and 7.
    assert (mine.tolist(), other.tolist()) == (
        [False, False, True],
        [True, False, False],
    )
