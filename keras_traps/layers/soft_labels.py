"""The layer that makes a classifier's output ready to be added to."""

from typing import Any

import keras
import tensorflow as tf

from keras_traps import ops
from keras_traps.ops.soft_labels import check_temperature


@keras.saving.register_keras_serializable(package="keras_traps")
class SoftLabels(keras.layers.Layer):
    """Turns logits or probabilities into soft labels of a given temperature.

    Where a classifier is sure, its soft labels hardly change, and what a watermark
    decoder adds to them leads the gradient. A temperature below 1 makes it sure of
    more images, and changes no answer. It is computed in float32 whatever the dtype
    policy.

    Args:
        temperature: What logits are divided by, from 0.0001 to 100. Defaults to `1.0`.
        from_logits: Whether the inputs are logits; if not, they are probabilities.
            Defaults to `True`.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, num_classes)`, floating point.

    Returns:
        `(batch, num_classes)`, float32; each row sums to 1.

    Raises:
        ValueError: If `temperature` is out of its range.

    Example:
    >>> keras_traps.layers.SoftLabels(0.5, from_logits=False)(np.array([[0.75, 0.25]]))
    <tf.Tensor: shape=(1, 2), dtype=float32, numpy=array([[0.9, 0.1]], dtype=float32)>

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, equation 1.
    """

    def __init__(
        self, temperature: float = 1.0, *, from_logits: bool = True, **kwargs: Any
    ) -> None:
        check_temperature(temperature)
        super().__init__(autocast=False, **kwargs)
        self.temperature = float(temperature)
        self.from_logits = bool(from_logits)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the soft labels; see the class."""
        return ops.soft_labels(inputs, self.temperature, from_logits=self.from_logits)

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
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "from_logits": self.from_logits,
        }
