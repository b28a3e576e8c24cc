"""The layer that adds a watermark decoder to a classifier."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_traps import ops
from keras_traps.ops.normalized_sum import check_ord


@keras.saving.register_keras_serializable(package="keras_traps")
class NormalizedSum(keras.layers.Layer):
    """Adds two output vectors and scales the sum to norm 1.

    The sum is computed in float32 whatever the dtype policy: two classes may lie
    closer than half precision tells apart.

    Args:
        ord: Order of the norm: 1, 2 or infinity. Defaults to `1`.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        inputs: A list of two tensors `(batch, num_classes)`, floating point: the
            classifier's output C(x) and the decoder's W(x).

    Returns:
        `(batch, num_classes)`, float32: (C + W) / |C + W|.

    Raises:
        ValueError: If `ord` is unknown, or the inputs are not two of one shape.

    Example:
    >>> c, w = np.array([[0.75, 0.0]]), np.array([[0.0, 0.25]])
    >>> keras_traps.layers.NormalizedSum()([c, w])
    <tf.Tensor: shape=(1, 2), dtype=float32, numpy=array([[0.75, 0.25]], ...)>

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, equation 2.
    """

    def __init__(self, ord: float = 1, **kwargs: Any) -> None:
        check_ord(ord)
        super().__init__(autocast=False, **kwargs)
        self.ord = ord

    def build(self, input_shape: list[tuple[int | None, ...]]) -> None:
        """Checks that there are two inputs of one shape."""
        shapes = [tuple(shape) for shape in input_shape]
        if len(shapes) != 2 or shapes[0][1:] != shapes[1][1:]:
            raise ValueError(
                "Invalid value for argument `inputs`. Expected two tensors of the same "
                f"shape. Received shapes: {shapes}"
            )

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Returns the normalised sum; see the class."""
        c, w = (tf.cast(tensor, tf.float32) for tensor in inputs)
        return ops.normalized_sum(c, w, self.ord)

    def compute_output_shape(
        self, input_shape: list[tuple[int | None, ...]]
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
        return {**super().get_config(), "ord": self.ord}
