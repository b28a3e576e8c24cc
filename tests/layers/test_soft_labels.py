from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps import ops
from keras_traps.layers import SoftLabels
from tests.layers.layer_checks import check_layer, quick_and_slow

SHARES = np.random.default_rng(0).dirichlet(np.ones(4), 5).astype(np.float32)


@quick_and_slow
def test_it_does_what_a_layer_does(whole: bool, tmp_path: Path) -> None:
    make = partial(SoftLabels, from_logits=False)
    check_layer(make, [SHARES], tmp_path, whole, sloped=False)


@pytest.mark.parametrize("from_logits", [True, False])
def test_it_is_the_op(from_logits: bool) -> None:
    expected = ops.soft_labels(SHARES, from_logits=from_logits)
    result = SoftLabels(from_logits=from_logits)(SHARES)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_half_precision_does_not_round_its_answers() -> None:
    layer = SoftLabels(dtype="mixed_float16")
    result = layer(keras.ops.cast([[8.0, 0.0]], "float16"))
    assert result.dtype == "float32"
    np.testing.assert_allclose(result[0, 1], 0.025, rtol=1e-5)
