"""The forensic step as a layer, for the integrated model."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import check_flag, check_number
from keras_traps.ops.forensics import recover, statistics


@keras.saving.register_keras_serializable(package="keras_traps")
class DetectRecover(keras.layers.Layer):
    """Replaces the answer on inputs that look attacked by the recovered one.

    Where no condition of `keras_traps.ops.judge` fires the output is M(x). Where one
    does, it is the recovered class: that of lowest correlation, which an attack moved
    away from, or C's second where C4 alone fires. The switch between them has no
    gradient.

    Args:
        upper: U, the largest max w of a clean input (C1).
        lower: L, the smallest min w of a clean input (C2).
        deviation: sigma_0, the largest stdev(w) of a clean input (C3), above 0.
        lead: The least lead of C's best logit on a clean input (C4), above 0.
        differentiable: Whether the answer recovered from W has a gradient that a
            white-box attacker can follow: max(w) - w, scaled to sum 1. Else it is 1 at
            the recovered class and 0 elsewhere, and a gradient attack stands still from
            where it is flagged, so that its failure says little. The paper does not say
            which it has. Defaults to `True`.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        inputs: A list of three tensors `(batch, num_classes)`: M(x), W(x) and C's
            logits.

    Returns:
        `(batch, num_classes)`, float32.

    Raises:
        ValueError: If a threshold is no finite number, `deviation` is not above 0,
            nor `lead` is, `differentiable` is neither `True` nor `False`, or the inputs
            are not three.

    Example:
    >>> layer = keras_traps.layers.DetectRecover(1.0, -1.0, 0.7, 0.5)
    >>> m, w, logits = [[0.9, 0.1]], [[-2.0, 0.0]], [[3.0, 1.0]]
    >>> layer([np.array(each) for each in (m, w, logits)])
    <tf.Tensor: shape=(1, 2), dtype=float32, numpy=array([[1., 0.]], dtype=float32)>

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Sections III-B, V-C and V-D.
    """

    def __init__(
        self,
        upper: float,
        lower: float,
        deviation: float,
        lead: float,
        differentiable: bool = True,
        **kwargs: Any,
    ) -> None:
        check_number(upper, name="upper")
        check_number(lower, name="lower")
        check_number(deviation, name="deviation", above=0)
        check_number(lead, name="lead", above=0)
        check_flag("differentiable", differentiable)
        super().__init__(autocast=False, **kwargs)
        self.upper = float(upper)
        self.lower = float(lower)
        self.deviation = float(deviation)
        self.lead = float(lead)
        self.differentiable = differentiable

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        """Checks how many inputs there are."""
        if len(input_shape) != 3:
            raise ValueError(
                "Invalid value for argument `inputs`. Expected three tensors, M(x), "
                f"W(x) and C's logits. Received: {len(input_shape)}"
            )

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the integrated answer; see the class."""
        m, w, logits = (tf.cast(tensor, tf.float32) for tensor in inputs)
        # Not `judge`: OpenVINO makes an output of the model of what nothing reads.
        limits = (self.upper, -self.lower, self.deviation, -math.log(self.lead))
        fired = statistics(w, logits) > tf.constant(limits, tf.float32)
        recovered = tf.one_hot(recover(w, logits, fired), tf.shape(w)[-1])
        if self.differentiable:
            highest = tf.reduce_max(w, axis=-1, keepdims=True)
            by_watermark = tf.reduce_any(fired[:, :3], axis=-1, keepdims=True)
            sloped = ops.normalized_sum(highest, -w, ord=1)
            recovered = tf.where(by_watermark, sloped, recovered)
        flagged = tf.reduce_any(fired, axis=-1, keepdims=True)
        return tf.where(flagged, recovered, m)

    def compute_output_shape(
        self, input_shape: Sequence[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """Returns the shape of each input."""
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
            "lead": self.lead,
            "differentiable": self.differentiable,
        }
