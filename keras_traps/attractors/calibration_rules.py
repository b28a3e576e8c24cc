"""The rules by which `calibrate` chooses, one function each."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import FloatArray
from keras_traps.layers import QIMDecoder
from keras_traps.models.outputs import Output
from keras_traps.ops.soft_labels import log_probabilities

# All clean images but for so few are what a rule holds for.
_TAIL = 0.999
# How far the best of two soft labels is to lead the other.
_SURE_LEAD = 0.99
# The least temperature that the rule gives.
COLDEST = 1e-3
_SEARCH_STEPS = 40
# In steps: below it, what distances differ by is the rounding of float32.
_LEAST_SPREAD = 1e-3
# How far A2 stays below the bound, so that the model's own rounding cannot cross it.
_MARGIN = 1e-3


def distances_by_step(
    decoder: QIMDecoder, images: FloatArray, batch_size: int
) -> FloatArray:
    """Measures what the pixels of each step size add to the distances.

    Returns `(steps, images, num_classes)`, centred, for step weights of 1.
    """
    steps, index = np.asarray(decoder.pixel_steps), step_index(decoder)
    tables = [
        ops.qim_tables(decoder.code, steps, index == i)
        for i in range(len(decoder.steps))
    ]

    @tf.function(
        input_signature=[tf.TensorSpec((None, *images.shape[1:]))], autograph=False
    )
    def distances(batch: tf.Tensor) -> tf.Tensor:
        grey = decoder.grey_levels(batch)
        return tf.stack([ops.qim_distance(grey, table) for table in tables])

    return np.concatenate(
        [
            distances(tf.constant(images[start : start + batch_size])).numpy()
            for start in range(0, len(images), batch_size)
        ],
        axis=1,
    )


def step_index(decoder: QIMDecoder) -> npt.NDArray[np.intp]:
    """Returns which of a decoder's step sizes each pixel has."""
    # Two of them may be alike.
    return ops.draw_steps(decoder.image_shape, decoder.steps, key=decoder.key)


def clean_spread(distances: FloatArray) -> float:
    """Returns the root of the variance over images, averaged over classes."""
    return float(np.sqrt(distances.var(axis=-2, dtype=np.float64).mean()))


def step_weights_for(
    by_step: FloatArray, steps: Sequence[float], small_step_share: float
) -> tuple[float, ...]:
    """Weighs the steps so that each small one adds a share of the largest's spread."""
    spreads = [clean_spread(distances) for distances in by_step]
    largest = int(np.argmax(steps))
    if not spreads[largest] > _LEAST_SPREAD * steps[largest]:
        raise ValueError(
            "Invalid value for argument `images`. Expected images that differ. "
            "Received images that all have the same distances to the messages. Those "
            "of images whose blocks of 2x2 pixels are each of one value, such as "
            'enlarged ones, are all the same unless messages="random".'
        )
    return tuple(
        1.0
        if step == steps[largest] or not spread > 0
        else small_step_share * spreads[largest] / spread
        for step, spread in zip(steps, spreads, strict=True)
    )


def temperature_for(answers: FloatArray, output: Output) -> float:
    """Returns the largest temperature up to 1 at which the answers are sure.

    That is, at which 99.9 % of them lead the next by 0.99, were there no others.
    """
    logits = answers if output == "logits" else log_probabilities(answers).numpy()
    second, first = np.sort(logits, axis=1)[:, -2:].T
    lead = float(np.quantile(first - second, 1 - _TAIL))
    # Of two soft labels one leads the other by tanh(lead / 2T).
    return min(max(lead / (2 * math.atanh(_SURE_LEAD)), COLDEST), 1.0)


def scale_for(
    distances: FloatArray, clean_position: float, clean_reach: float
) -> tuple[float, float]:
    """Returns A0 and A1 that place the distances of clean images as asked for."""
    mean = distances.mean()
    a0 = -clean_reach / float(np.quantile(np.abs(distances - mean), _TAIL))
    return a0, a0 * float(mean) - clean_position


def largest_within_budget(
    answers: FloatArray, unit: FloatArray, budget: float, largest: float
) -> tuple[float, float]:
    """Finds the largest A2 by bisection, and the share of answers that it changes.

    `answers` is C(x) as it enters the sum, and `unit` W(x) for an A2 of 1.
    """
    before = answers.argmax(axis=1)
    # In float32 a tiny A2 is lost beside a tie, which a larger one breaks.
    answers, unit = answers.astype(np.float64), unit.astype(np.float64)

    def changed(a2: float) -> float:
        return float(((answers + a2 * unit).argmax(axis=1) != before).mean())

    if changed(largest) <= budget:
        return largest, changed(largest)
    low, high = 0.0, largest
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if changed(middle) <= budget else (low, middle)
    if low == 0.0:
        second, first = np.sort(answers, axis=1)[:, -2:].T
        raise ValueError(
            "Invalid value for argument `classifier`. It does not tell the images "
            f"apart: its two best classes tie on {(first == second).mean():.2%} of "
            f"them, so that no watermark is small enough for budget={budget:g}."
        )
    low *= 1 - _MARGIN
    return low, changed(low)
