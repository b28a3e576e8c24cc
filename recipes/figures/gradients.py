"""What a model says of images, and the loss that an attack reads from it."""

from collections.abc import Callable
from typing import get_args

import keras
import tensorflow as tf

from keras_traps.attractors.injection import decoder_of
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import AttackedOutput, check_classifier

Scores = Callable[[tf.Tensor], tf.Tensor]
"""From images `(batch, ...)` to `(batch, num_classes)`; a decoder layer is one too."""

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From images and classes `(batch,)` to the loss of each image, `(batch,)`."""


def scores_of(model: keras.Model, output: AttackedOutput) -> Scores:
    """Returns a model as a function of images whose gradient does not saturate.

    Args:
        model: A built model, such as C or M.
        output: What it returns; `"scores"` for a trapped model. Where these are
            probabilities the function returns their logits.

    Returns:
        A function from images to `(batch, num_classes)`, float32. It keeps the model
        alive.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, or `output` is unknown.
    """
    check_classifier(model, output, known=get_args(AttackedOutput), name="model")
    logits = logits_model(model, output)

    def scores(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(logits(images, training=False), tf.float32)

    return scores


def both_answers(trapped: keras.Model) -> Scores:
    """Returns what C and M answer, from one run of C.

    Args:
        trapped: A trapped model from `inject`.

    Returns:
        A function from images to `(batch, 2, num_classes)`, float32: C as it enters
        the sum, and M. For answers, not for gradients: soft labels saturate.

    Raises:
        ValueError: If `trapped` has no QIM decoder.
    """
    decoder_of(trapped)
    alone = trapped.get_layer("normalized_sum").input[0]
    pair = keras.Model(trapped.input, [alone, trapped.output])

    def scores(images: tf.Tensor) -> tf.Tensor:
        found = (tf.cast(part, tf.float32) for part in pair(images, training=False))
        return tf.stack(list(found), axis=1)

    return scores


def soft_label_loss(scores: Scores) -> Loss:
    """Returns J(x, y), the cross-entropy of the softmax of the scores.

    It is computed as log(1 + exp(lead)), where the lead is the log-sum-exp of the
    other classes' scores above that of y. That is the same number, and its gradient
    keeps its digits in float32 where the model is sure.

    Args:
        scores: A function from images to `(batch, num_classes)`.

    Returns:
        A function from images and classes to `(batch,)`.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section IV-B.
    """

    def loss(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        values = scores(images)
        given = tf.one_hot(
            classes, tf.shape(values)[-1], on_value=True, off_value=False
        )
        rivals = tf.where(given, values.dtype.min / 4, values)
        own = tf.gather(values, classes, axis=-1, batch_dims=1)
        return tf.nn.softplus(tf.reduce_logsumexp(rivals, axis=-1) - own)

    return loss


def gradient(loss: Loss, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of a loss with respect to the images, inside a graph.

    Args:
        loss: From images and classes to `(batch,)`.
        images: `(batch, ...)`, float32.
        classes: `(batch,)`, int64.

    Returns:
        The shape of the images; 0 where the loss does not depend on them.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        value = loss(images, classes)
    return tape.gradient(value, images, unconnected_gradients="zero")
