"""How strong a model's outputs and gradients are on clean images: Figures 5 and 6."""

import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray, check_images, check_labels
from keras_traps.attractors.analysis.batches import map_batches
from keras_traps.attractors.analysis.scores import Scores, gradient, soft_label_loss


def output_norms(
    scores: Scores, images: npt.ArrayLike, *, batch_size: int = 256
) -> FloatArray:
    """Measures the 1-norm of a model's output.

    Args:
        scores: A function from images to `(batch, num_classes)`: `scores_of` a model,
            or a decoder.
        images: `(images, ...)`, floating point, pixels in [0, 1].
        batch_size: How many images at once. Defaults to `256`.

    Returns:
        `(images,)`, float32, in the unit of the output.

    Raises:
        TypeError: If images are integers.
        ValueError: If there are no images, or a pixel is not in [0, 1].

    Reference:
        Zhang, Chang, Lee, Figure 5 (a).
    """

    def norms(batch: tf.Tensor) -> tuple[tf.Tensor]:
        return (_norm(scores(batch)),)

    return map_batches(norms, check_images(images), batch_size=batch_size)[0]


def gradient_norms(
    scores: Scores,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    batch_size: int = 256,
) -> FloatArray:
    """Measures the 1-norm of the gradient of the soft-label loss J(x, y).

    Args:
        scores: A function from images to `(batch, num_classes)`.
        images: `(images, ...)`, floating point, pixels in [0, 1].
        labels: `(images,)`, integers: y, the true classes.
        batch_size: How many images at once. Defaults to `256`.

    Returns:
        `(images,)`, float32, per unit of pixel value. One that is too small for
        float32 is 0.

    Raises:
        TypeError: If images are integers, or labels are not.
        ValueError: If there are no images, a pixel is not in [0, 1], or labels do not
            fit.

    Reference:
        Zhang, Chang, Lee, Figure 5 (b).
    """
    array = check_images(images)
    classes = int(scores(tf.constant(array[:1])).shape[-1])
    loss = soft_label_loss(scores)

    def norms(batch: tf.Tensor, given: tf.Tensor) -> tuple[tf.Tensor]:
        return (_norm(gradient(loss, batch, given)),)

    given = check_labels(labels, len(array), classes, name="labels")
    return map_batches(norms, array, given, batch_size=batch_size)[0]


def _norm(values: tf.Tensor) -> tf.Tensor:
    # Reshaped first, for a gradient's rank may be unknown while it is traced.
    rows = tf.reshape(values, (tf.shape(values)[0], -1))
    return tf.reduce_sum(tf.abs(rows), axis=1)
