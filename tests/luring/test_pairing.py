import numpy as np

from keras_traps.evaluation.luring.pairing import Paired, count_pairs, pair
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.pairing import Pair


def record(ids: list[int], target: list[int], augmented: list[int]) -> LuringRecord:
    zeros = np.zeros(len(ids))
    counts = zeros.astype(np.int64)
    return LuringRecord(
        ids=np.array(ids),
        labels=counts,
        augmented=np.array(augmented),
        target=np.array(target),
        l0=counts,
        l2=zeros.astype(np.float32),
        linf=zeros.astype(np.float32),
        iterations=counts,
    )


def test_only_images_that_both_met_count_and_each_beside_itself() -> None:
    first = record([7, 1, 5, 2], target=[0, 0, 1, 0], augmented=[1, 1, 1, 1])
    second = record([2, 9, 7, 5], target=[1, 0, 0, 1], augmented=[1, 1, 1, 2])
    # Of 7, 5 and 2 M is right on 7 and 2, and on 7.
    assert pair(first, second, "ac_m") == Pair(3, ahead=1, behind=0, p_value=1.0)
    # 5 fools M in both, in the second M and M∘P differ.
    assert pair(first, second, "dac") == Pair(3, ahead=1, behind=1, p_value=1.0)


def test_cells_are_counted_by_side_and_by_what_is_beyond_chance() -> None:
    pairs = [
        Pair(20, 9, 1, 22 / 1024),
        Pair(30, 3, 1, 0.625),
        Pair(25, 1, 9, 22 / 1024),
        Pair(25, 2, 2, 1.0),
    ]
    assert count_pairs(pairs) == Paired(4, (20, 30), 2, 1, 1)
