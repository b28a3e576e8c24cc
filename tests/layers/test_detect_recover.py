from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.layers import DetectRecover
from keras_traps.layers.detect_recover import Recovery
from tests.layers.layer_checks import check_layer

UPPER, LOWER, DEVIATION = 1.0, -1.0, 0.75
M = np.array([[0.5, 0.3, 0.1, 0.1]], np.float32)

CLEAN = [0.5, -0.5, 0.25, 0.0]
HIGH = [1.125, 0.5, 0.5, 0.0]  # C1 alone
LOW = [0.0, -1.125, 0.0, -0.5]  # C2 alone
SPREAD = [0.9375, -0.9375, 0.9375, -0.9375]  # C3 alone
EDGE = [1.0, 0.25, 0.5, 0.5]  # max w = U


def answer(w: list[float], softness: float = 0.0) -> npt.NDArray[np.float32]:
    layer = DetectRecover(UPPER, LOWER, DEVIATION, softness=softness)
    return layer([M, np.array([w], np.float32)]).numpy()


def recovered(w: list[float]) -> npt.NDArray[np.float32]:
    distances = np.max(w) - np.array([w])
    return (distances / distances.sum()).astype(np.float32)


@pytest.mark.parametrize("softness", [0.0, 0.1])
def test_it_does_what_a_layer_does(softness: float, tmp_path: Path) -> None:
    m, w = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    make = partial(DetectRecover, 1.5, -1.5, 0.9, softness)
    check_layer(make, [m, w], tmp_path)


# Nothing flows back through a hard choice, which Keras warns of.
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("recovery", ["label", "difference", "depth"])
def test_it_does_so_with_a_hard_choice_too(recovery: Recovery, tmp_path: Path) -> None:
    m, w, c = np.random.default_rng(1).normal(size=(3, 6, 4)).astype(np.float32)
    # Some rows are flagged, others are not and have a gradient.
    make = partial(
        DetectRecover, 1.5, -1.5, 0.9, recovery=recovery, depth=0.5, height=0.5
    )
    check_layer(make, [m, w] if recovery == "label" else [m, w, c], tmp_path)


@pytest.mark.parametrize("w", [HIGH, LOW, SPREAD])
def test_a_hard_label_is_the_class_of_lowest_correlation(w: list[float]) -> None:
    layer = DetectRecover(UPPER, LOWER, DEVIATION, recovery="label")
    result = layer([M, np.array([w], np.float32)]).numpy()
    np.testing.assert_array_equal(result, np.eye(4)[[np.argmin(w)]])
    np.testing.assert_array_equal(layer([M, np.array([CLEAN], np.float32)]), M)


def test_the_difference_lets_the_classifier_decide_where_w_says_little() -> None:
    layer = DetectRecover(UPPER, LOWER, DEVIATION, recovery="difference")
    for size, expected in ((0.4, 0), (2.0, 3)):
        w = np.array([[UPPER + 0.01] * 3 + [UPPER + 0.01 - size]], np.float32)
        c = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
        assert layer([M, w, c]).numpy().argmax() == expected
        assert layer([M, w, c]).numpy().max() == 1


def test_the_weight_says_how_much_w_counts_beside_c() -> None:
    w = np.array([[UPPER + 0.01] * 3 + [UPPER - 0.4]], np.float32)
    c = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
    for weight, expected in ((1.0, 0), (3.0, 3)):
        layer = DetectRecover(
            UPPER, LOWER, DEVIATION, recovery="difference", weight=weight
        )
        assert layer([M, w, c]).numpy().argmax() == expected


@pytest.mark.parametrize("name", ["weight", "depth"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_weight_or_a_depth_that_is_none_is_refused(name: str, value: float) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"argument `{name}`.*Received: {name}="):
        DetectRecover(UPPER, LOWER, DEVIATION, **settings)


@pytest.mark.parametrize(
    ("recovery", "count"), [("difference", 2), ("depth", 2), ("label", 3)]
)
def test_the_number_of_inputs_is_checked(recovery: Recovery, count: int) -> None:
    layer = DetectRecover(
        UPPER, LOWER, DEVIATION, recovery=recovery, depth=0.5, height=0.5
    )
    with pytest.raises(ValueError, match=rf"`inputs`.*{recovery}.*Received: {count}"):
        layer([M] * count)


def test_an_unknown_recovery_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`recovery`.*'label'.*Received: .*'best'"):
        DetectRecover(UPPER, LOWER, DEVIATION, recovery="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("w", [CLEAN, EDGE, [0.0] * 4])
def test_what_looks_clean_keeps_its_answer(w: list[float]) -> None:
    np.testing.assert_array_equal(answer(w), M)


@pytest.mark.parametrize("w", [HIGH, LOW, SPREAD])
def test_each_condition_alone_gives_the_recovered_answer(w: list[float]) -> None:
    result = answer(w)
    np.testing.assert_allclose(result, recovered(w), rtol=1e-6)
    assert result.argmax() == np.argmin(w)
    assert result.sum() == pytest.approx(1)
    assert result.min() == 0


def test_a_statistic_at_its_threshold_is_not_flagged() -> None:
    at_all_three = np.array([[1.0, -1.0, 0.5, -0.5]], np.float32)
    w = tf.constant(at_all_three)
    deviation = float(tf.math.reduce_std(w))
    layer = DetectRecover(1.0, -1.0, deviation)
    np.testing.assert_array_equal(layer([M, w]), M)

    def below(value: float) -> float:
        return float(np.nextafter(np.float32(value), np.float32(0)))

    for limits in (
        (below(1.0), -1.0, deviation),
        (1.0, below(-1.0), deviation),
        (1.0, -1.0, below(deviation)),
    ):
        flagged = DetectRecover(*limits)([M, w])
        np.testing.assert_allclose(flagged, recovered(at_all_three[0]), rtol=1e-6)


def test_each_image_is_judged_by_itself() -> None:
    rows = [CLEAN, HIGH, LOW, SPREAD, EDGE]
    m = np.random.default_rng(0).random((5, 4), np.float32)
    result = DetectRecover(UPPER, LOWER, DEVIATION)([m, np.array(rows, np.float32)])
    expected = np.concatenate([m[:1], *map(recovered, rows[1:4]), m[4:]])
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_a_soft_gate_mixes_by_how_far_the_conditions_are_exceeded() -> None:
    for w in (CLEAN, HIGH, LOW, SPREAD, EDGE):
        spread = float(np.std(w)) - DEVIATION
        excess = max(max(w) - UPPER, LOWER - min(w), spread)
        share = 1 / (1 + np.exp(-excess / 0.2))
        expected = share * recovered(w) + (1 - share) * M
        np.testing.assert_allclose(answer(w, 0.2), expected, rtol=1e-5)
    half = (recovered(EDGE) + M) / 2
    np.testing.assert_allclose(answer(EDGE, 0.2), half, rtol=1e-5)


def test_a_narrow_soft_gate_is_the_switch() -> None:
    for w in (CLEAN, HIGH, LOW, SPREAD):
        np.testing.assert_allclose(answer(w, 1e-4), answer(w), rtol=1e-5, atol=1e-7)


def gradients(
    w: list[float], softness: float, *entries: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Of the sum of these entries of the answer, by M and by W."""
    layer = DetectRecover(UPPER, LOWER, DEVIATION, softness=softness)
    m, correlations = tf.constant(M), tf.constant([w], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([m, correlations])
        result = tf.gather(layer([m, correlations]), entries, axis=1)
    to_m, to_w = tape.gradient(result, [m, correlations])
    return to_m.numpy(), to_w.numpy()


@pytest.mark.parametrize("softness", [0.0, 0.1])
@pytest.mark.parametrize(
    "w",
    [
        CLEAN,
        HIGH,
        LOW,
        SPREAD,
        EDGE,
        [0.0] * 4,
        [0.2] * 4,  # alike, but for a rounding in their mean
        [0.5] * 4,  # alike
        [2.0] * 4,  # alike and flagged
        [1e-30, 0.0, 0.0, 0.0],
        [1e20, -1e-20, 0.0, 0.0],
    ],
)
def test_gradients_are_finite(w: list[float], softness: float) -> None:
    for gradient in gradients(w, softness, 0, 1):
        assert np.isfinite(gradient).all()


def test_the_switch_passes_the_gradient_of_the_answer_that_it_gives() -> None:
    to_m, to_w = gradients(CLEAN, 0.0, 0)
    assert to_m.tolist() == [[1, 0, 0, 0]]
    assert not to_w.any()
    to_m, to_w = gradients(HIGH, 0.0, 3)
    assert not to_m.any()
    # Raising the lowest correlation makes its class less sure.
    assert to_w[0, 3] < 0


def test_the_soft_gate_lets_an_attacker_follow_the_detection() -> None:
    # M is sure of the first class, the recovered answer of the second.
    w = [0.875, -0.25, 0.5, 0.5]
    _, to_w = gradients(w, 0.1, 0)
    step = 1e-3
    up, down = answer([w[0] + step, *w[1:]], 0.1), answer([w[0] - step, *w[1:]], 0.1)
    measured = (up - down)[0, 0] / (2 * step)
    assert abs(measured) > 0.1
    assert to_w[0, 0] == pytest.approx(measured, rel=1e-2)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((NAN, -1, 0.5), "argument `upper`. Expected a finite number"),
        ((1, -INFINITE, 0.5), "argument `lower`. Expected a finite number"),
        ((1, -1, INFINITE), "argument `deviation`. Expected a finite number"),
        ((1, -1, 0.5, NAN), "argument `softness`. Expected a finite number"),
        ((1, -1, 0), "deviation above 0.*Received: deviation=0"),
        ((1, -1, -0.5), "deviation above 0"),
        ((1, -1, 0.5, -0.1), "softness of at least 0.*softness=-0.1"),
    ],
)
def test_thresholds_that_are_none_are_refused(
    arguments: tuple[Any, ...], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        DetectRecover(*arguments)
