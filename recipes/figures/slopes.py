"""In how many directions of an image M and M∘P go opposite ways."""

from collections.abc import Callable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray, check_count, check_images
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import Output, check_classifier, check_outputs


def opposite_directions(
    target: keras.Model,
    augmented: keras.Model,
    images: npt.ArrayLike,
    *,
    output: Output,
    batch_size: int = 100,
) -> IntArray:
    """Counts the input values along which a logit of M rises and of M∘P falls.

    For each image x and class, the number of directions d with
    (∂l / ∂x_d) (∂lP / ∂x_d) < 0, of the logits l of M and lP of M∘P, as `slopes` has
    them.

    Args:
        target: M.
        augmented: M∘P.
        images: `(images, height, width, channels)`, floating point, in [0, 1].
        output: What both return.
        batch_size: How many images at once. Defaults to `100`.

    Returns:
        `(images, num_classes)`, int64, from 0 to the number of values of an image.

    Raises:
        TypeError: If a model is no Keras model or the images are not floating point.
        ValueError: If a model is not a built classifier or does not return what
            `output` says, the two have other classes, the images are not such as
            they take, or `batch_size` is not an integer of at least 1.

    Reference:
        Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, Section 4.2.
    """
    check_count("batch_size", batch_size)
    classes = check_classifier(target, output, name="target")
    others = check_classifier(augmented, output, name="augmented")
    if others != classes:
        raise ValueError(
            "Invalid value for argument `augmented`. Expected as many classes as M "
            f"has, {classes}. Received: {others}"
        )
    for model in (target, augmented):
        pixels = check_images(images, model.input_shape[1:])
        check_outputs(predict(model, pixels[:batch_size]), output)
    first, second = (slopes(model, output) for model in (target, augmented))
    counts = np.zeros((len(pixels), classes), np.int64)
    for start in range(0, len(pixels), batch_size):
        part = slice(start, start + batch_size)
        for number in range(classes):
            # Signs, for the product of two small numbers may round to 0.
            ways = [np.sign(slope(pixels[part], number)) for slope in (first, second)]
            opposite = ways[0] * ways[1] < 0
            counts[part, number] = opposite.reshape(len(opposite), -1).sum(axis=1)
    return counts


def slopes(
    model: keras.Model, output: Output
) -> Callable[[FloatArray, int], FloatArray]:
    """Compiles the derivative of a logit by the image.

    It is that of the logit less the mean of all: what is added to all logits changes no
    answer. Of a network that subtracts the largest one that has no derivative itself.

    Args:
        model: A built classifier.
        output: What it returns.

    Returns:
        A function from images and the number of a logit to the derivatives, of the
        shape of the images, float32; traced once for all.
    """
    logits = logits_model(model, output)
    shape = (None, *model.input_shape[1:])

    @tf.function(
        input_signature=[tf.TensorSpec(shape, tf.float32), tf.TensorSpec((), tf.int32)],
        autograph=False,
    )
    def slope(images: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            found = logits(images, training=False)
            chosen = tf.gather(found, number, axis=1) - tf.reduce_mean(found, axis=1)
        return tape.gradient(chosen, images)

    return lambda images, number: slope(
        tf.constant(images, tf.float32), tf.constant(number)
    ).numpy()
