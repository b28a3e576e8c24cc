"""Compiled parts of attacks, traced once per model."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import keras
import tensorflow as tf

from keras_traps.attacks.losses import Logits
from keras_traps.models.inference import inference_function
from keras_traps.models.per_model import PerModel

_parts: PerModel[dict[Hashable, Any]] = PerModel()

Part = TypeVar("Part")


def once_per_model(
    model: keras.Model, key: Hashable, build: Callable[[Logits], Part]
) -> Part:
    """Returns what `build` makes of a model, made once and kept as long as the model.

    A model that has got other layers or weights since is taken for another.

    Args:
        model: A built model that returns logits or scores.
        key: What tells this part from others of the same model. Hyper-parameters do
            not belong here: they are arguments of the compiled function.
        build: Makes the part from the model's logits function, usually a `tf.function`
            with a None-batch signature. It must not hold the model itself.

    Returns:
        The part.
    """
    parts = _parts.get(model, dict)
    if key not in parts:
        parts[key] = build(inference_function(model))
    return parts[key]


def apart(part: Callable[..., Part]) -> Callable[..., Part]:
    """Returns a part of a compiled loop that keeps a graph of its own.

    In a loop's own graph it is left to chance whether oneDNN takes the gradient of a
    max pooling. Where it does not, a step of a small convolutional network takes 1.6
    times as long.

    Args:
        part: A function of tensors, which takes all of its gradients itself.

    Returns:
        The same function, for a loop to call.
    """
    function: Callable[..., Part] = tf.function(
        part, autograph=False, experimental_attributes={"_noinline": True}
    )
    return function


def watched(logits: Logits, ids: tf.Tensor) -> Logits:
    """Returns the same logits; their gradient is checked wherever it is taken.

    Args:
        logits: A function from a batch to `(batch, num_classes)`.
        ids: `(batch,)`, int64: which example each row is.

    Returns:
        A function of the same form. Where a gradient with respect to the images is
        not finite, `tf.errors.InvalidArgumentError` names the examples.
    """
    return lambda images: logits(tf.ensure_shape(_watch(images, ids), images.shape))


@tf.function(
    input_signature=[
        tf.TensorSpec(None, tf.float32),
        tf.TensorSpec((None,), tf.int64),
    ],
    autograph=False,
)
def _watch(images: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    # A graph of its own, traced once: TensorFlow registers each trace of a custom
    # gradient for ever, with the graph that it is in, and with that the model.
    @tf.custom_gradient
    def unchanged(images: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            rows = tf.reshape(upstream, (tf.shape(upstream)[0], -1))
            finite = tf.reduce_all(tf.math.is_finite(rows), axis=1)
            # An example may be shown in several rows.
            bad, _ = tf.unique(tf.boolean_mask(ids, ~finite))
            check = tf.debugging.Assert(
                tf.reduce_all(finite), [NON_FINITE, bad], summarize=8
            )
            with tf.control_dependencies([check] if check is not None else []):
                return tf.identity(upstream)

        return tf.identity(images), backward

    return unchanged(images)


NON_FINITE = "The gradient holds numbers that are not finite, at the examples"
"""How the message of a gradient that is not finite begins."""
