from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ops

UPPER, LOWER, DEVIATION = 1.0, -1.0, 0.75
CLEAN = [0.5, -0.5, 0.25, 0.0]
HIGH = [1.125, 0.5, 0.5, 0.0]  # C1 alone
LOW = [0.0, -1.125, 0.0, -0.5]  # C2 alone
SPREAD = [0.9375, -0.9375, 0.9375, -0.9375]  # C3 alone


def judge(*rows: list[float], dtype: Any = tf.float64, **options: Any) -> ops.Judgement:
    w = tf.constant(rows, dtype)
    return ops.judge(w, UPPER, LOWER, DEVIATION, **options)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_each_condition_is_of_its_own_row(dtype: Any) -> None:
    found = judge(CLEAN, HIGH, LOW, SPREAD, dtype=dtype)
    assert found.fired.numpy().tolist() == [
        [False, False, False],
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    assert found.flagged.numpy().tolist() == [False, True, True, True]
    assert found.recovered.numpy().tolist() == [-1, 3, 1, 1]
    assert (found.score.dtype, found.recovered.dtype) == (tf.float32, tf.int64)


def test_a_statistic_at_its_limit_is_not_above_it() -> None:
    # Mean 0 and deviation 1, all of them exact in float32.
    w = tf.constant([[1.0, -1.0, 1.0, -1.0]])
    assert not ops.judge(w, 1.0, -1.0, 1.0).flagged.numpy().any()
    below = float(np.nextafter(np.float32(1), np.float32(0)))
    for limits in ((below, -1.0, 1.0), (1.0, -below, 1.0), (1.0, -1.0, below)):
        assert ops.judge(w, *limits).fired.numpy().sum() == 1


def test_the_score_is_by_how_much_the_worst_condition_is_exceeded() -> None:
    score = judge(CLEAN, HIGH, LOW, SPREAD).score.numpy()
    spread = float(np.std(CLEAN)) - DEVIATION
    np.testing.assert_allclose(score, [spread, 0.125, 0.125, 0.1875], rtol=1e-6)


def test_the_score_is_measured_from_a_centre_in_a_scale() -> None:
    found = judge(HIGH, centre=(0.125, 0.0, 0.0), scale=(0.5, 1.0, 1.0))
    assert found.score.numpy().tolist() == [2.0]
    assert found.fired.numpy().tolist() == [[True, False, False]]


def test_nothing_of_it_has_a_gradient() -> None:
    w = tf.constant([HIGH, [0.0] * 4])
    with tf.GradientTape() as tape:
        tape.watch(w)
        score = ops.judge(w, UPPER, LOWER, DEVIATION).score
    assert tape.gradient(score, w) is None


def test_an_empty_batch_and_a_graph_of_any_size_are_judged() -> None:
    run = tf.function(
        lambda w: ops.judge(w, UPPER, LOWER, DEVIATION),
        input_signature=[tf.TensorSpec((None, 4), tf.float32)],
    )
    assert run(np.array([HIGH, CLEAN], np.float32)).flagged.numpy().tolist() == [1, 0]
    assert run(np.zeros((0, 4), np.float32)).score.shape == (0,)
