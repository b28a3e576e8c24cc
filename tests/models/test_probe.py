from typing import Any

import keras
import pytest

from keras_traps.models.probe import check_on_noise


@pytest.mark.parametrize("size", [4, None])
def test_noise_tells_logits_from_probabilities(size: Any) -> None:
    inputs = keras.Input((size, size, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    logits = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    sure = keras.Model(inputs, keras.layers.Dense(3, "softmax")(pooled))
    check_on_noise(logits, "logits")
    check_on_noise(sure, "probabilities")
    with pytest.raises(ValueError, match="do not look like probabilities"):
        check_on_noise(logits, "probabilities")
    with pytest.raises(ValueError, match="do not look like logits"):
        check_on_noise(sure, "logits")
