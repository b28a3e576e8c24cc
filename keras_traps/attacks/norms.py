"""How far and where a gradient attack may go: steps and balls of a norm."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta, optimize_linear


class Norm(NamedTuple):
    """The hooks of a norm.

    Args:
        step: From a direction, of the images' shape, to the step of length 1 that goes
            furthest along it; none where the direction is 0.
        project: From images, the clean images and a radius to the images in the ball
            around the clean ones and in [0, 1].
    """

    step: Callable[[tf.Tensor], tf.Tensor]
    project: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def _project_linf(images: tf.Tensor, clean: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    inside = clean + clip_eta(images - clean, np.inf, eps)
    return tf.clip_by_value(inside, 0.0, 1.0)


# cleverhans' own shortens what is shorter than 1e-6, whose square it takes for 1e-12.
def _step_l2(direction: tf.Tensor) -> tf.Tensor:
    # The square of a small number is none in float32.
    largest = tf.reduce_max(tf.abs(direction), axis=(1, 2, 3), keepdims=True)
    scaled = tf.math.divide_no_nan(direction, largest)
    return tf.math.divide_no_nan(scaled, _length(scaled))


def _project_l2(images: tf.Tensor, clean: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    way = images - clean
    inside = clean + way * tf.minimum(1.0, tf.math.divide_no_nan(eps, _length(way)))
    return tf.clip_by_value(inside, 0.0, 1.0)


def _length(values: tf.Tensor) -> tf.Tensor:
    squares = tf.reduce_sum(tf.square(values), axis=(1, 2, 3), keepdims=True)
    return tf.sqrt(squares)


LINF = Norm(partial(optimize_linear, eps=1.0, norm=np.inf), _project_linf)
"""cleverhans' steps, of the gradient's sign, in its box."""

L2 = Norm(_step_l2, _project_l2)
"""Steps along the gradient, in a sphere."""
