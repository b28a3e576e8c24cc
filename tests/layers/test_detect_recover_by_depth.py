from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.layers import DetectRecover
from tests.layers.test_detect_recover import (
    CLEAN,
    DEVIATION,
    HIGH,
    LOWER,
    SPREAD,
    UPPER,
    M,
)


def by_depth(w: list[float], depth: float = 0.5) -> npt.NDArray[np.float32]:
    return by_depth_layer(depth)([M, np.array([w], np.float32), C]).numpy()


def by_depth_layer(depth: float = 0.5) -> DetectRecover:
    return DetectRecover(
        UPPER, LOWER, DEVIATION, recovery="depth", depth=depth, height=0.75
    )


C = np.array([[0.1, 0.7, 0.1, 0.1]], np.float32)
SHALLOW, DEEP = [0.0, 0.1, 0.0, -1.5], [0.0, 0.1, 0.0, -1.501]


def test_a_correlation_names_the_class_only_from_its_depth_on() -> None:
    assert by_depth(SHALLOW).argmax() == 1
    assert by_depth(DEEP).argmax() == 3
    assert by_depth(DEEP, depth=0.51).argmax() == 1
    np.testing.assert_array_equal(by_depth(CLEAN), M)


def test_a_correlation_that_is_high_enough_rules_its_class_out() -> None:
    for highest, expected in ((1.75, 2), (1.749, 0)):
        w = np.array([[highest, 0.0, 0.0, 0.0]], np.float32)
        c = np.array([[0.7, 0.0, 0.2, 0.1]], np.float32)
        layer = by_depth_layer()
        assert layer([M, w, c]).numpy().argmax() == expected
        by_logits = layer([M, w, 1000 * (c - 0.5)]).numpy()
        assert by_logits.argmax() == expected


def test_where_all_classes_are_that_high_none_is_ruled_out() -> None:
    assert by_depth([2.0] * 4).argmax() == 1


@pytest.mark.parametrize("given", [{}, {"depth": 0.5}, {"height": 0.5}])
def test_by_depth_needs_both_of_its_limits(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`depth` or `height`.*Received: depth="):
        DetectRecover(UPPER, LOWER, DEVIATION, recovery="depth", **given)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_height_below_0_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"`height`.*of at least 0"):
        DetectRecover(UPPER, LOWER, DEVIATION, height=value)


@pytest.mark.parametrize("w", [SHALLOW, DEEP, HIGH, SPREAD, [0.0, 0.0, 0.0, -90.0]])
def test_an_answer_by_depth_is_scores_that_sum_to_1(w: list[float]) -> None:
    result = by_depth(w)
    named = 3 if min(w) < -1.5 else 1
    others = np.delete(result, named)
    assert result.sum() == pytest.approx(1)
    assert result.min() >= 0
    # However deep, the lead is no rounding.
    assert result[0, named] > others.max() + 1e-4


@pytest.mark.parametrize("named", [1, 3])
def test_its_gradient_leads_on_into_the_trap(named: int) -> None:
    w = tf.constant([SHALLOW if named == 1 else DEEP])
    layer = by_depth_layer()
    with tf.GradientTape() as tape:
        tape.watch(w)
        answer = layer([M, w, C])
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits([3], answer)
    (gradient,) = tape.gradient(loss, w).numpy()
    # An attacker who wants to leave the last class makes its correlation lower still.
    assert gradient[3] < 0
    assert (gradient[:3] > 0).all()
