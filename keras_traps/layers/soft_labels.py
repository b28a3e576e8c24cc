"""The layer that makes a classifier's output ready to be added to."""

from typing import Any

import keras
import tensorflow as tf

from keras_traps import ops


@keras.saving.register_keras_serializable(package="keras_traps")
class SoftLabels(keras.layers.Layer):
    """Turns logits or probabilities into soft labels that change in steps alone.

    The best class keeps its probability to within 0.025, the others share what is
    missing, see `keras_traps.ops.soft_labels`. Between two steps they have no slope, so
    that what a watermark decoder adds to them leads the gradient. They are computed in
    float32 whatever the dtype policy.

    Args:
        from_logits: Whether the inputs are logits; if not, they are probabilities.
            Defaults to `True`.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, num_classes)`, floating point.

    Returns:
        `(batch, num_classes)`, float32; each row sums to 1.

    Example:
    >>> keras_traps.layers.SoftLabels(from_logits=False)(np.array([[0.72, 0.28]]))
    <tf.Tensor: shape=(1, 2), dtype=float32, numpy=array([[0.725, 0.275]], ...)>

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, equation 2; the steps are not of the paper.
    """

    def __init__(self, *, from_logits: bool = True, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.from_logits = bool(from_logits)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the soft labels; see the class."""
        return ops.soft_labels(inputs, from_logits=self.from_logits)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return tuple(input_shape)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Returns shape and dtype: float32 whatever the dtype policy."""
        return keras.KerasTensor(inputs.shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor needs to make this layer again."""
        return {**super().get_config(), "from_logits": self.from_logits}
