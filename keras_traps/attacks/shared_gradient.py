"""The gradient that cleverhans takes of a model, traced once for any batch size."""

import tensorflow as tf
from cleverhans.tf2.utils import compute_gradient

from keras_traps.attacks.base import Batch
from keras_traps.attacks.compiled import once_per_model
from keras_traps.attacks.losses import COSTS, Logits


def logits_traced_once(batch: Batch, *, targeted: bool) -> Logits:
    """Returns a batch's logits, whose gradient cleverhans traces once for all batches.

    By itself it makes one trace for each batch size, and TensorFlow optimises the whole
    model anew in each: that takes as long as hundreds of steps. Of several traces
    TensorFlow takes one that fits, so that one made beforehand, for any batch size,
    serves them all.

    Args:
        batch: The batch.
        targeted: Whether its labels are targets.

    Returns:
        `batch.logits`, for cleverhans to call.
    """
    images = tf.TensorSpec((None, *batch.images.shape[1:]), tf.float32)
    labels = tf.TensorSpec((None,), tf.int64)

    def trace(_: Logits) -> None:
        compute_gradient.get_concrete_function(
            batch.logits, COSTS[batch.loss], images, labels, targeted
        )

    # cleverhans keeps the trace itself, and with it the weights, for good.
    once_per_model(batch.model, ("gradient", batch.loss, targeted), trace)
    return batch.logits
