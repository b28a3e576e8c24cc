"""Translation-invariant gradients: averages over shifted images, by a convolution.

Reference:
    Dong et al., Evading defenses to transferable adversarial examples by
    translation-invariant attacks, 2019.
"""

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray


def smooth(gradients: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves gradients with a kernel along their height, then along their width.

    Args:
        gradients: `(rows, height, width, channels)`, float32.
        kernel: `(length,)`, float32.

    Returns:
        The same shape; beyond the edges there are zeros.
    """
    channels = gradients.shape[-1]
    filters = tf.tile(kernel[:, None, None, None], (1, 1, channels, 1))
    strides = (1, 1, 1, 1)
    down = tf.nn.depthwise_conv2d(gradients, filters, strides, "SAME")
    across = tf.transpose(filters, (1, 0, 2, 3))
    return tf.nn.depthwise_conv2d(down, across, strides, "SAME")


def gaussian_kernel(kernlen: int, nsig: float) -> FloatArray:
    """Returns the Gaussian kernel of translation-invariant attacks, along one axis.

    Args:
        kernlen: How many values, at least 1.
        nsig: How many standard deviations lie on each side of the middle, above 0.

    Returns:
        `(kernlen,)`, float32, with sum 1. The kernel of the authors' code is its outer
        product with itself.
    """
    density = np.exp(-np.square(np.linspace(-nsig, nsig, kernlen)) / 2)
    return (density / density.sum()).astype(np.float32)
