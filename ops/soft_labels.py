"""A classifier's output as soft labels, sharper or flatter than it comes."""

import numpy as np
import tensorflow as tf

from keras_traps._checks import is_number

# Beyond these float32 runs over, or rounds a lead away.
_COLDEST, _HOTTEST = 1e-4, 100.0


def soft_labels(
    answers: tf.Tensor, temperature: float = 1.0, *, from_logits: bool = True
) -> tf.Tensor:
    r"""Turns logits or probabilities into soft labels of a given temperature.

    $$C(x)_k = \frac{\exp(z_k / T)}{\sum_j \exp(z_j / T)}$$

    with the logits $z$, or the logarithms of probabilities in their place.

    Args:
        answers: `(batch, num_classes)`, floating point: a classifier's output.
        temperature: T, from 0.0001 to 100. Defaults to `1.0`.
        from_logits: Whether `answers` are logits; if not, each row is probabilities.
            Defaults to `True`.

    Returns:
        `(batch, num_classes)`, float32; each row sums to 1. Probabilities at a
        temperature of 1 are returned as they are.

    Raises:
        ValueError: If `temperature` is out of its range.

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, equation 1.
    """
    check_temperature(temperature)
    answers = tf.cast(answers, tf.float32)
    if not from_logits:
        if temperature == 1:
            return answers
        answers = log_probabilities(answers)
    return tf.nn.softmax(answers / temperature, axis=-1)


def log_probabilities(probabilities: tf.Tensor) -> tf.Tensor:
    """Returns the logarithms of probabilities, finite where one is 0."""
    # The least number that processors do not round to 0.
    return tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny))


def check_temperature(temperature: float) -> None:
    """Refuses a temperature that `soft_labels` cannot divide by."""
    if not is_number(temperature) or not _COLDEST <= temperature <= _HOTTEST:
        raise ValueError(
            "Invalid value for argument `temperature`. Expected a number from "
            f"{_COLDEST:g} to {_HOTTEST:g}. Received: temperature={temperature!r}"
        )
