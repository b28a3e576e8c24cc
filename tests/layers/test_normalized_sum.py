from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import ops
from keras_traps.layers import NormalizedSum
from tests.layers.layer_checks import check_layer, quick_and_slow

C, W = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)


@quick_and_slow
def test_it_does_what_a_layer_does(tmp_path: Path, whole: bool) -> None:
    check_layer(partial(NormalizedSum, float("inf")), [C, W], tmp_path, whole)


def test_it_is_the_op() -> None:
    expected = ops.normalized_sum(C, W, 2)
    np.testing.assert_allclose(NormalizedSum(2)([C, W]), expected, rtol=1e-6)


def test_classes_that_half_precision_cannot_tell_apart_are_told_apart() -> None:
    layer = NormalizedSum(dtype="mixed_float16")
    c = np.array([[0.5, 0.5]], np.float32)
    w = np.array([[0.0, 1e-5]], np.float32)
    assert np.argmax(layer([c, w])) == 1


@pytest.mark.parametrize("sizes", [(4,), (4, 5), (4, 4, 4)])
def test_inputs_that_are_not_two_of_one_shape_are_refused(sizes: Any) -> None:
    inputs = [keras.Input((size,)) for size in sizes]
    with pytest.raises(ValueError, match="Expected two tensors of the same shape"):
        NormalizedSum()(inputs)
