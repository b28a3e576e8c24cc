"""A frozen classifier whose gradient by the image takes less time on a CPU."""

import weakref
from typing import Any

import keras
import tensorflow as tf

_views: "weakref.WeakKeyDictionary[keras.Model, keras.Model]"
_views = weakref.WeakKeyDictionary()


def _functional() -> type[keras.Model]:
    inputs = keras.Input((1,))
    return type(keras.Model(inputs, inputs))


# A subclass of these may do more than its layers say.
_KINDS = (_functional(), keras.Sequential)


def input_gradient_model(model: keras.Model) -> keras.Model:
    """Returns a model that computes the same, made for gradients by its input.

    TensorFlow's gradient of a dense layer is g Kᵀ, with the gradient g of the outputs
    and the kernel K. With few rows in g and a large K its CPU kernel takes three times
    as long for that as for (K gᵀ)ᵀ, which is the same. Its gradient of max-pooling
    takes three times as long as the same, fused by XLA, where windows do not overlap.

    Args:
        model: A built model with one input and one output.

    Returns:
        A model that shares the layers of a functional or sequential `model`, its dense
        and pooling layers called with the other gradient; else `model` itself. The same
        one at every call.
    """
    if type(model) not in _KINDS:
        return model
    if model not in _views:
        # The clone of a compiled model has an optimizer of its own, which cannot be
        # made while a training step is traced.
        with tf.init_scope():
            plain = keras.Model(model.inputs[0], model.outputs[0])
            _views[model] = keras.models.clone_model(plain, clone_function=_share)
    return _views[model]


def _share(layer: keras.layers.Layer) -> keras.layers.Layer:
    if type(layer) is keras.layers.MaxPooling2D:
        return _MaxPool(layer) if _can_be_tiled(layer) else layer
    plain = type(layer) is keras.layers.Dense and layer.quantization_mode is None
    # What is added to a kernel by LoRA is not in it.
    return _Dense(layer) if plain and not layer.lora_enabled else layer


class _Dense(keras.layers.Layer):
    """A dense layer with the same weights and another gradient by its input."""

    def __init__(self, dense: keras.layers.Dense) -> None:
        super().__init__(dtype=dense.dtype_policy, name=dense.name)
        self.dense = dense
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if len(inputs.shape) != 2:
            return self.dense(inputs)
        outputs = _product(inputs, tf.cast(self.dense.kernel, inputs.dtype))
        if self.dense.use_bias:
            outputs += tf.cast(self.dense.bias, inputs.dtype)
        return self.dense.activation(outputs)


def _can_be_tiled(pool: keras.layers.MaxPooling2D) -> bool:
    """Whether its windows lie side by side from the first pixel on."""
    return (
        tuple(pool.pool_size) == tuple(pool.strides)
        and pool.padding == "valid"
        and pool.data_format == "channels_last"
    )


class _MaxPool(keras.layers.Layer):
    """Max-pooling with another way to compute its gradient."""

    def __init__(self, pool: keras.layers.MaxPooling2D) -> None:
        super().__init__(dtype=pool.dtype_policy, name=pool.name)
        self.pool = pool

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if None in inputs.shape[1:]:
            return self.pool(inputs)
        high, wide = self.pool.pool_size

        @tf.custom_gradient
        def pooled(images: tf.Tensor) -> Any:
            largest = self.pool(images)
            return largest, lambda upstream: _spread(
                images, largest, upstream, high, wide
            )

        return pooled(inputs)


@tf.function(jit_compile=True)
def _spread(
    images: tf.Tensor, largest: tf.Tensor, upstream: tf.Tensor, high: int, wide: int
) -> tf.Tensor:
    """Hands each window's gradient to the first of its largest pixels."""
    _, height, width, channels = images.shape
    rows, columns = largest.shape[1:3]
    tiles = tf.reshape(
        images[:, : rows * high, : columns * wide],
        (-1, rows, high, columns, wide, channels),
    )
    free = tf.ones_like(largest, tf.bool)
    lines = []
    for row in range(high):
        line = []
        for column in range(wide):
            hit = tf.logical_and(free, tiles[:, :, row, :, column] == largest)
            free = tf.logical_and(free, tf.logical_not(hit))
            line.append(tf.where(hit, upstream, tf.zeros_like(upstream)))
        lines.append(tf.stack(line, axis=3))
    spread = tf.reshape(
        tf.stack(lines, axis=2), (-1, rows * high, columns * wide, channels)
    )
    rest = [[0, 0], [0, height - rows * high], [0, width - columns * wide], [0, 0]]
    return tf.pad(spread, rest)


@tf.custom_gradient
def _product(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        by_input = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
        return by_input, tf.matmul(inputs, upstream, transpose_a=True)

    return tf.matmul(inputs, kernel), gradient
