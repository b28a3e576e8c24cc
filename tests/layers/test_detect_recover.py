from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.layers import DetectRecover
from tests.layers.layer_checks import check_layer, quick_and_slow
from tests.ops.test_forensics import (
    CLEAN,
    DEVIATION,
    HIGH,
    LEAD,
    LOW,
    LOWER,
    SPREAD,
    SURE,
    TIED,
    UPPER,
)

M = np.array([[0.5, 0.3, 0.1, 0.1]], np.float32)
FLAGGED = [HIGH, LOW, SPREAD]


def answer(
    w: list[float], differentiable: bool = True, logits: list[float] = SURE
) -> npt.NDArray[np.float32]:
    layer = DetectRecover(UPPER, LOWER, DEVIATION, LEAD, differentiable)
    return layer([M, np.array([w], np.float32), np.array([logits])]).numpy()


# Nothing flows back through C's logits and, without a gradient, through W, which Keras
# warns of.
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@quick_and_slow
@pytest.mark.parametrize("differentiable", [True, False])
def test_it_does_what_a_layer_does(
    differentiable: bool, whole: bool, tmp_path: Path
) -> None:
    m, w, logits = np.random.default_rng(5).normal(size=(3, 6, 4)).astype(np.float32)
    w[::2] *= 0.1  # not flagged, the others are
    logits[:, 0] = 9
    logits[0, 1] = 8.75  # but this one by its lead
    make = partial(DetectRecover, 0.5, -0.5, 0.4, 0.5, differentiable)
    check_layer(make, [m, w, logits], tmp_path, whole)


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
def test_where_c_alone_is_unsure_its_second_class_is_the_answer(
    differentiable: bool,
) -> None:
    result = answer(CLEAN, differentiable, logits=TIED)
    assert result.tolist() == [[0, 1, 0, 0]]
    # W's word goes first.
    both = answer(HIGH, differentiable, logits=TIED)
    np.testing.assert_array_equal(both, answer(HIGH, differentiable))


def test_a_classifier_that_answers_nan_is_not_given_a_class() -> None:
    nan = [float("nan")] * 4
    layer = DetectRecover(UPPER, LOWER, DEVIATION, LEAD)
    assert np.isnan(layer([np.array([nan]), np.array([CLEAN]), np.array([nan])])).all()


@pytest.mark.parametrize("differentiable", [True, False])
def test_its_graph_has_nothing_that_nothing_reads(differentiable: bool) -> None:
    layer = DetectRecover(UPPER, LOWER, DEVIATION, LEAD, differentiable)
    spec = tf.TensorSpec((None, 4), tf.float32)
    call = tf.function(lambda *given: layer(given))
    graph = call.get_concrete_function(spec, spec, spec)
    found = graph.graph.get_operations()
    read = {tensor.op.name for one in found for tensor in one.inputs}
    read |= {tensor.op.name for tensor in graph.outputs}
    # Converters to other formats take such a thing for another output.
    assert [one.name for one in found if one.name not in read] == []


def gradients(
    w: list[float],
    entry: int,
    differentiable: bool = True,
    logits: list[float] = SURE,
) -> tuple[Any, Any]:
    """Of an entry of the answer, by M and by W; C's logits have none."""
    layer = DetectRecover(UPPER, LOWER, DEVIATION, LEAD, differentiable)
    given = [tf.constant(M), tf.constant([w], tf.float32), tf.constant([logits])]
    with tf.GradientTape() as tape:
        tape.watch(given)
        result = layer(given)[:, entry]
    to_m, to_w, to_logits = tape.gradient(result, given)
    assert to_logits is None
    return to_m, to_w


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
    for gradient in gradients(CLEAN, 1, logits=TIED):
        assert not gradient.numpy().any()


@pytest.mark.parametrize("value", [np.inf, True, None])
@pytest.mark.parametrize("name", ["upper", "lower", "deviation", "lead"])
def test_a_threshold_that_is_no_finite_number_is_refused(name: str, value: Any) -> None:
    limits: dict[str, Any] = {"upper": 1, "lower": -1, "deviation": 0.5, "lead": 1}
    limits[name] = value
    with pytest.raises(ValueError, match=f"`{name}`. Expected a finite number"):
        DetectRecover(**limits)


def test_other_arguments_out_of_their_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"`deviation`.*above 0"):
        DetectRecover(1, -1, 0, 1)
    with pytest.raises(ValueError, match=r"`lead`.*above 0"):
        DetectRecover(1, -1, 0.5, 0)
    wrong: Any = "label"
    with pytest.raises(ValueError, match=r"`differentiable`.*'label'"):
        DetectRecover(1, -1, 0.5, 1, wrong)
    with pytest.raises(ValueError, match=r"`inputs`. Expected three.*Received: 2"):
        DetectRecover(1, -1, 0.5, 1)([M] * 2)
