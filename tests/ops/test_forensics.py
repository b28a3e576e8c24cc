import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ops
from keras_traps.ops.forensics import joint_score, statistics

UPPER, LOWER, DEVIATION, LEAD = 1.0, -1.0, 0.75, 0.5
LIMITS = (UPPER, -LOWER, DEVIATION, -math.log(LEAD))
CLEAN = [0.5, -0.5, 0.25, 0.0]
HIGH = [1.125, 0.5, 0.5, 0.0]  # C1 alone
LOW = [0.0, -1.125, 0.0, -0.5]  # C2 alone
SPREAD = [0.9375, -0.9375, 0.9375, -0.9375]  # C3 alone
SURE = [0.0, 3.0, 1.0, -1.0]
TIED = [1.0, 2.75, 3.0, -1.0]  # C4 alone, whose second class is 1


def judge(
    *rows: list[float],
    logits: Any = None,
    limits: Any = LIMITS,
    dtype: Any = tf.float64,
    centre: Any = (0.0,) * 4,
    scale: Any = (1.0,) * 4,
) -> ops.Judgement:
    w = tf.constant(rows, dtype)
    c = tf.constant(logits or [SURE] * len(rows), dtype)
    return ops.judge(w, c, limits, centre=centre, scale=scale)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_each_condition_is_of_its_own_row(dtype: Any) -> None:
    rows = CLEAN, HIGH, LOW, SPREAD, CLEAN
    found = judge(*rows, logits=[SURE] * 4 + [TIED], dtype=dtype)
    assert found.fired.numpy().tolist() == [
        [False, False, False, False],
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    assert found.flagged.numpy().tolist() == [False, True, True, True, True]
    assert found.recovered.numpy().tolist() == [-1, 3, 1, 1, 1]
    assert (found.score.dtype, found.recovered.dtype) == (tf.float32, tf.int64)


def test_the_class_of_lowest_correlation_is_recovered_where_w_has_a_say() -> None:
    found = judge(HIGH, logits=[TIED])
    assert found.fired.numpy().tolist() == [[True, False, False, True]]
    assert found.recovered.numpy().tolist() == [3]


def test_a_statistic_at_its_limit_is_not_above_it() -> None:
    # Mean 0, deviation 1 and lead 1, all of them exact in float32.
    w, c = [1.0, -1.0, 1.0, -1.0], [[0.0, 1.0, 2.0, -1.0]]
    limits = np.array([1.0, 1.0, 1.0, 0.0])
    found = judge(w, logits=c, limits=limits, dtype=tf.float32)
    assert not found.flagged.numpy().any()
    for condition in range(4):
        lower = limits - 1e-6 * np.eye(4)[condition]
        found = judge(w, logits=c, limits=lower, dtype=tf.float32)
        assert found.fired.numpy()[0].nonzero()[0].tolist() == [condition]


def test_the_score_is_by_how_much_the_worst_condition_is_exceeded() -> None:
    found = judge(CLEAN, HIGH, LOW, SPREAD, CLEAN, logits=[SURE] * 4 + [TIED])
    expected = [0.5, 1.125, 1.125, 0.9375, math.log(4)]
    np.testing.assert_allclose(found.score, expected, rtol=1e-6)


def test_the_score_is_measured_from_a_centre_in_a_scale() -> None:
    found = judge(HIGH, centre=(0.125, 0.0, 0.0, 0.0), scale=(0.5, 1.0, 1.0, 1.0))
    assert found.score.numpy().tolist() == [2.0]
    assert found.fired.numpy().tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_an_exact_tie_has_a_finite_score(dtype: Any) -> None:
    found = judge(CLEAN, CLEAN, logits=[[0.0] * 4, [1.0, 2.0, 2.0, 1.0]], dtype=dtype)
    assert found.fired.numpy().tolist() == [[False, False, False, True]] * 2
    assert np.isfinite(found.score).all()
    assert found.recovered.numpy().tolist() == [1, 2]


def test_the_lead_of_probabilities_logarithms_is_that_of_their_logits() -> None:
    logarithms = tf.nn.log_softmax([TIED]).numpy().tolist()
    expected, found = judge(CLEAN, logits=[TIED]), judge(CLEAN, logits=logarithms)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-5)
    assert found.recovered.numpy().tolist() == expected.recovered.numpy().tolist()


def test_nothing_of_it_has_a_gradient() -> None:
    w, c = tf.constant([HIGH, [0.0] * 4]), tf.constant([SURE, TIED])
    with tf.GradientTape() as tape:
        tape.watch([w, c])
        score = ops.judge(w, c, LIMITS, centre=(0.0,) * 4, scale=(1.0,) * 4).score
    assert tape.gradient(score, [w, c]) == [None, None]


def test_an_empty_batch_and_a_graph_of_any_size_are_judged() -> None:
    spec = tf.TensorSpec((None, 4), tf.float32)
    run = tf.function(
        lambda w, c: ops.judge(w, c, LIMITS, centre=(0.0,) * 4, scale=(1.0,) * 4),
        input_signature=[spec, spec],
    )
    w, c = np.array([HIGH, CLEAN], np.float32), np.array([SURE, SURE], np.float32)
    assert run(w, c).flagged.numpy().tolist() == [1, 0]
    assert run(w[:0], c[:0]).score.shape == (0,)


@pytest.mark.parametrize("w", [CLEAN, HIGH, LOW, SPREAD, [0.25] * 4, [0.0] * 4])
@pytest.mark.parametrize("logits", [SURE, TIED, [1.0] * 4])
def test_the_joint_score_is_the_judgements_and_has_a_finite_gradient(
    w: list[float], logits: list[float]
) -> None:
    centre, scale = (0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 0.5, 3.0)
    both = [tf.constant([one], tf.float64) for one in (w, logits)]
    with tf.GradientTape() as tape:
        tape.watch(both)
        score = joint_score(statistics(*both), centre, scale)
    judged = judge(w, logits=[logits], centre=centre, scale=scale).score
    np.testing.assert_array_equal(score, judged)
    for gradient in tape.gradient(score, both, unconnected_gradients="zero"):
        assert np.isfinite(gradient.numpy()).all()


def test_the_gradient_is_that_of_the_largest_statistic() -> None:
    both = [tf.constant([one], tf.float64) for one in (CLEAN, [4.0, 1.0, 2.0, 0.0])]
    # The lead is 2: the slope of -ln 2 is one half, down for the best class.
    spread = np.array(CLEAN) - np.mean(CLEAN)
    by_spread = spread / (len(CLEAN) * np.std(CLEAN))
    for place, expected in enumerate(
        [[1.0, 0, 0, 0], [0, -1.0, 0, 0], by_spread, [-0.5, 0, 0.5, 0]]
    ):
        centre = [100.0] * 4
        centre[place] = 0.0
        with tf.GradientTape() as tape:
            tape.watch(both)
            score = joint_score(statistics(*both), centre, (1.0, 1.0, 1.0, 1.0))
        slopes = tape.gradient(score, both, unconnected_gradients="zero")
        np.testing.assert_allclose(slopes[place == 3][0], expected, atol=1e-12)
        assert not np.any(slopes[place != 3])
