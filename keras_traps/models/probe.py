"""A look at what a classifier returns, for which no data is needed."""

import keras
import numpy as np

from keras_traps._checks import FloatArray
from keras_traps.models.inference import predict
from keras_traps.models.outputs import check_outputs

_IMAGES = 8
# Of images whose size is not known.
_SIDE = 32


def check_on_noise(model: keras.Model, output: str) -> None:
    """Refuses a classifier that does not return what is declared.

    Args:
        model: A built classifier; it is asked about uniform noise in [0, 1], fixed by a
            seed.
        output: `"logits"` or `"probabilities"`.

    Raises:
        ValueError: As `check_outputs` does.
    """
    check_outputs(answers_to_noise(model), output)


def answers_to_noise(model: keras.Model) -> FloatArray:
    """Asks a classifier about uniform noise in [0, 1], fixed by a seed.

    Args:
        model: A built classifier.

    Returns:
        `(8, num_classes)`: what it returns.
    """
    shape = tuple(size or _SIDE for size in model.input_shape[1:])
    noise = np.random.default_rng(0).random((_IMAGES, *shape), np.float32)
    return predict(model, noise)
