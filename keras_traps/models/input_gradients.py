"""A frozen classifier whose gradient by the image takes less time on a CPU."""

from typing import Any

import keras
import tensorflow as tf

from keras_traps.models.inference import PerModel, as_graph, is_its_graph

_views: PerModel[keras.Model] = PerModel()


def input_gradient_model(model: keras.Model) -> keras.Model:
    """Returns a model that computes the same, made for gradients by its input."""
    # TensorFlow's gradient of a dense layer is g Kᵀ, with the gradient g of the outputs
    # and the kernel K. With few rows in g and a large K its CPU kernel takes longer for
    # that than for (K gᵀ)ᵀ. Its gradient of a convolution of one channel takes longer
    # than a product with the kernel, whose rows are then moved and added.
    if not is_its_graph(model):
        return model

    def make() -> keras.Model:
        # The clone of a compiled model has an optimizer of its own, which cannot be
        # made while a training step is traced.
        with tf.init_scope():
            plain = as_graph(model, name=model.name)
            return keras.models.clone_model(plain, clone_function=_share)

    return _views.get(model, make)


def _share(layer: Any) -> keras.layers.Layer:
    known = type(layer) is keras.layers.Dense or (
        type(layer) is keras.layers.Conv2D and _of_one_channel(layer)
    )
    # What is added to a kernel by LoRA is not in it.
    if not known or layer.quantization_mode is not None or layer.lora_enabled:
        return layer
    return _View(layer)


def _of_one_channel(conv: keras.layers.Conv2D) -> bool:
    return (
        conv.kernel.shape[2] == 1
        and conv.groups == 1
        and tuple(conv.strides) == tuple(conv.dilation_rate) == (1, 1)
        and conv.data_format == "channels_last"
    )


class _View(keras.layers.Layer):
    """A layer with the same weights and another gradient by its input."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__(dtype=layer.dtype_policy, name=layer.name)
        self.layer = layer
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        layer, dense = self.layer, isinstance(self.layer, keras.layers.Dense)
        if (dense and len(inputs.shape) != 2) or None in inputs.shape[1:]:
            return layer(inputs)
        kernel = tf.cast(layer.kernel, inputs.dtype)
        if dense:
            outputs = _product(inputs, kernel)
        else:
            outputs = _convolution(inputs, kernel, layer.padding.upper())
        if layer.use_bias:
            outputs += tf.cast(layer.bias, inputs.dtype)
        return layer.activation(outputs)


def _convolution(images: tf.Tensor, kernel: tf.Tensor, padding: str) -> tf.Tensor:
    @tf.custom_gradient
    def convolved(images: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=images,
                filter_sizes=kernel.shape,
                out_backprop=upstream,
                strides=[1, 1, 1, 1],
                padding=padding,
            )
            return _spread(upstream, kernel, images.shape, padding), by_kernel

        return tf.nn.conv2d(images, kernel, 1, padding), gradient

    return convolved(images, kernel)


def _spread(
    upstream: tf.Tensor, kernel: tf.Tensor, shape: tf.TensorShape, padding: str
) -> tf.Tensor:
    """Returns the gradient by the images, `(batch, height, width, 1)`."""
    high, wide, _, filters = kernel.shape
    rows, columns = upstream.shape[1:3]
    # What each of the kernel's pixels hands on, of all places at once.
    products = tf.matmul(
        tf.reshape(kernel, (high * wide, filters)),
        tf.reshape(upstream, (-1, filters)),
        transpose_b=True,
    )
    products = tf.reshape(products, (high, wide, -1, rows, columns))
    moved = [
        tf.pad(
            products[row, column],
            [[0, 0], [row, high - 1 - row], [column, wide - 1 - column]],
        )
        for row in range(high)
        for column in range(wide)
    ]
    top, left = ((size - 1) // 2 * (padding == "SAME") for size in (high, wide))
    whole = tf.add_n(moved)[:, top : top + shape[1], left : left + shape[2]]
    return whole[..., tf.newaxis]


@tf.custom_gradient
def _product(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        by_input = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
        return by_input, tf.matmul(inputs, upstream, transpose_a=True)

    return tf.matmul(inputs, kernel), gradient
