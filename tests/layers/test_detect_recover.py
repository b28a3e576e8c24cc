from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.layers import DetectRecover
from tests.layers.layer_checks import check_layer, quick_and_slow
from tests.ops.test_forensics import CLEAN, DEVIATION, HIGH, LOW, LOWER, SPREAD, UPPER

M = np.array([[0.5, 0.3, 0.1, 0.1]], np.float32)
FLAGGED = [HIGH, LOW, SPREAD]


def answer(w: list[float], differentiable: bool = True) -> npt.NDArray[np.float32]:
    layer = DetectRecover(UPPER, LOWER, DEVIATION, differentiable)
    return layer([M, np.array([w], np.float32)]).numpy()


# Without a gradient nothing flows back through W, which Keras warns of.
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@quick_and_slow
@pytest.mark.parametrize("differentiable", [True, False])
def test_it_does_what_a_layer_does(
    differentiable: bool, whole: bool, tmp_path: Path
) -> None:
    m, w = np.random.default_rng(5).normal(size=(2, 6, 4)).astype(np.float32)
    w[::2] *= 0.1  # not flagged, the others are
    make = partial(DetectRecover, 0.5, -0.5, 0.4, differentiable)
    check_layer(make, [m, w], tmp_path, whole)


@pytest.mark.parametrize("w", [CLEAN, [UPPER, 0.25, 0.5, 0.5], [0.0] * 4])
def test_what_looks_clean_keeps_its_answer(w: list[float]) -> None:
    np.testing.assert_array_equal(answer(w), M)
    np.testing.assert_array_equal(answer(w, False), M)


@pytest.mark.parametrize("w", FLAGGED)
def test_a_recovered_answer_is_the_way_down_from_the_highest(w: list[float]) -> None:
    ways = np.max(w) - np.array([w])
    np.testing.assert_allclose(answer(w), ways / ways.sum(), rtol=1e-6)


@pytest.mark.parametrize("w", FLAGGED)
def test_without_a_gradient_it_is_the_class_of_lowest_correlation(
    w: list[float],
) -> None:
    np.testing.assert_array_equal(answer(w, False), np.eye(4)[[np.argmin(w)]])


@pytest.mark.parametrize("differentiable", [True, False])
def test_its_graph_has_nothing_that_nothing_reads(differentiable: bool) -> None:
    layer = DetectRecover(UPPER, LOWER, DEVIATION, differentiable)
    spec = tf.TensorSpec((None, 4), tf.float32)
    graph = tf.function(lambda m, w: layer([m, w])).get_concrete_function(spec, spec)
    found = graph.graph.get_operations()
    read = {tensor.op.name for one in found for tensor in one.inputs}
    read |= {tensor.op.name for tensor in graph.outputs}
    # Converters to other formats take such a thing for another output.
    assert [one.name for one in found if one.name not in read] == []


def gradients(
    w: list[float], entry: int, differentiable: bool = True
) -> tuple[Any, Any]:
    """Of an entry of the answer, by M and by W."""
    layer = DetectRecover(UPPER, LOWER, DEVIATION, differentiable)
    m, correlations = tf.constant(M), tf.constant([w], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([m, correlations])
        result = layer([m, correlations])[:, entry]
    return tape.gradient(result, [m, correlations])


@pytest.mark.parametrize(
    "w", [CLEAN, HIGH, [0.2] * 4, [2.0] * 4, [1e-30, 0, 0, 0], [1e20, -1e-20, 0, 0]]
)
def test_gradients_are_finite(w: list[float]) -> None:
    for gradient in gradients(w, 0):
        assert np.isfinite(gradient).all()


def test_the_gradient_is_that_of_the_answer_that_is_given() -> None:
    to_m, to_w = gradients(CLEAN, 0)
    assert to_m.numpy().tolist() == [[1, 0, 0, 0]]
    assert not to_w.numpy().any()
    to_m, to_w = gradients(HIGH, 3)
    assert not to_m.numpy().any()
    # Raising the lowest correlation makes its class less sure.
    assert to_w[0, 3] < 0
    to_m, to_w = gradients(HIGH, 3, differentiable=False)
    assert not to_m.numpy().any()
    assert to_w is None


@pytest.mark.parametrize("value", [np.inf, True, None])
@pytest.mark.parametrize("name", ["upper", "lower", "deviation"])
def test_a_threshold_that_is_no_finite_number_is_refused(name: str, value: Any) -> None:
    limits: dict[str, Any] = {"upper": 1, "lower": -1, "deviation": 0.5, name: value}
    with pytest.raises(ValueError, match=f"`{name}`. Expected a finite number"):
        DetectRecover(**limits)


def test_other_arguments_out_of_their_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"`deviation`.*above 0"):
        DetectRecover(1, -1, 0)
    wrong: Any = "label"
    with pytest.raises(ValueError, match=r"`differentiable`.*'label'"):
        DetectRecover(1, -1, 0.5, wrong)
    with pytest.raises(ValueError, match=r"`inputs`. Expected two.*Received: 3"):
        DetectRecover(1, -1, 0.5)([M] * 3)
