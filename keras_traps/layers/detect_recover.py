"""The forensic step as a layer, for the integrated model."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_traps import ops


@keras.saving.register_keras_serializable(package="keras_traps")
class DetectRecover(keras.layers.Layer):
    """Replaces the answer on inputs that look attacked by the recovered one.

    Where no condition fires the output is M(x). Where one does, it is max(w) - w,
    scaled to sum 1: its largest entry is the class of lowest correlation, the one that
    an attack moved away from. Both have a gradient, so that a white-box attacker can
    follow it.

    Args:
        upper: U, the largest max w of a clean input (C1).
        lower: L, the smallest min w of a clean input (C2).
        deviation: sigma_0, the largest stdev(w) of a clean input (C3), above 0.
        softness: 0 for a switch, whose own gradient is 0. Above 0, the two answers are
            mixed by a sigmoid of how far the conditions are exceeded, `softness` being
            its width in the units of the correlations: a smooth stand-in for an
            attacker who wants the gradient of the detection too. Defaults to `0.0`.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        inputs: A list of two tensors `(batch, num_classes)`: M(x) and W(x).

    Returns:
        `(batch, num_classes)`, float32.

    Raises:
        ValueError: If a threshold is not finite, `deviation` is not above 0, or
            `softness` is below 0.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Sections III-B, V-C and V-D.
    """

    def __init__(
        self,
        upper: float,
        lower: float,
        deviation: float,
        softness: float = 0.0,
        **kwargs: Any,
    ) -> None:
        for name, value in (
            ("upper", upper),
            ("lower", lower),
            ("deviation", deviation),
            ("softness", softness),
        ):
            if not math.isfinite(value):
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a finite number. "
                    f"Received: {name}={value}"
                )
        if deviation <= 0 or softness < 0:
            raise ValueError(
                "Invalid value for argument `deviation` or `softness`. Expected "
                "deviation above 0 and softness of at least 0. Received: "
                f"deviation={deviation}, softness={softness}"
            )
        super().__init__(autocast=False, **kwargs)
        self.upper = float(upper)
        self.lower = float(lower)
        self.deviation = float(deviation)
        self.softness = float(softness)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the integrated answer; see the class."""
        m, w = (tf.cast(tensor, tf.float32) for tensor in inputs)
        excess = self._excess(w)
        highest = tf.reduce_max(w, axis=-1, keepdims=True)
        recovered = ops.normalized_sum(highest, -w, ord=1)
        if self.softness == 0.0:
            return tf.where(excess > 0.0, recovered, m)
        flagged = tf.sigmoid(excess / self.softness)
        return flagged * recovered + (1.0 - flagged) * m

    def compute_output_shape(
        self, input_shape: Sequence[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """Returns the shape of either input."""
        return tuple(input_shape[0])

    def compute_output_spec(
        self, inputs: Sequence[keras.KerasTensor]
    ) -> keras.KerasTensor:
        """Returns shape and dtype: float32 whatever the dtype policy."""
        return keras.KerasTensor(inputs[0].shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor needs to make this layer again."""
        return {
            **super().get_config(),
            "upper": self.upper,
            "lower": self.lower,
            "deviation": self.deviation,
            "softness": self.softness,
        }

    def _excess(self, w: tf.Tensor) -> tf.Tensor:
        """By how much the condition that is exceeded most is; `(batch, 1)`."""
        conditions = [
            tf.reduce_max(w, axis=-1, keepdims=True) - self.upper,
            self.lower - tf.reduce_min(w, axis=-1, keepdims=True),
        ]
        conditions.append(_deviation(w) - self.deviation)
        return tf.reduce_max(tf.stack(conditions), axis=0)


def _deviation(w: tf.Tensor) -> tf.Tensor:
    """The standard deviation of each row, with a gradient of 0 where it is 0."""
    variance = tf.math.reduce_variance(w, axis=-1, keepdims=True)
    # The root has no finite gradient at 0: there, another number's serves.
    safe = tf.where(variance > 0.0, variance, tf.ones_like(variance))
    return tf.where(variance > 0.0, tf.sqrt(safe), tf.zeros_like(variance))
