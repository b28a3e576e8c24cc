"""What the frozen classifier says of each image: computed once, not at every step."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import check_images, check_labels
from keras_traps.luring.batches import Int32Array, batches
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import Output, check_classifier, check_outputs

_PROBED = 32


class FrozenAnswers(NamedTuple):
    """What M says of some images.

    Args:
        answer: c, the class of the largest logit, `(images,)`, int32.
        runner_up: b, that of the second largest, `(images,)`, int32.
    """

    answer: Int32Array
    runner_up: Int32Array


def frozen_answers(
    target: keras.Model,
    images: npt.ArrayLike,
    *,
    output: Output,
    batch_size: int = 256,
) -> FrozenAnswers:
    """Asks the classifier M for its answer and its runner-up.

    Args:
        target: M, called with `training=False`.
        images: `(images, height, width, channels)`, floating point, in [0, 1].
        output: What M returns.
        batch_size: How many images at once. Defaults to `256`.

    Returns:
        The two classes of each image; of equal logits, the lower class comes first.

    Raises:
        TypeError: If `target` is no Keras model or the images are not floating point.
        ValueError: If `target` is not a built classifier of such images, or does not
            return what `output` says.
    """
    check_classifier(target, output, name="target")
    pixels = check_images(images, target.input_shape[1:])
    check_outputs(predict(target, pixels[:_PROBED]), output)
    logits = predict(logits_model(target, output), pixels, batch_size=batch_size)
    return FrozenAnswers(*(np.asarray(part) for part in top_two(logits)))


def top_two(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the classes of the largest and of the second largest logit.

    Args:
        logits: `(batch, num_classes)`, floating point, at least 2 classes.

    Returns:
        Two tensors `(batch,)`, int32.
    """
    ranked = tf.math.top_k(logits, k=2).indices
    return ranked[:, 0], ranked[:, 1]


def answered_dataset(
    target: keras.Model,
    images: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    output: Output,
    batch_size: int = 64,
    order: npt.NDArray[np.integer] | None = None,
) -> tf.data.Dataset:
    """Joins images with M's answers, for `LuredClassifier.fit` and `evaluate`.

    Training on it, a step never calls M on the images themselves. `fit` makes the like
    of images in an array; this is for an order of one's own. `fit` does not shuffle a
    data set: without `order` every epoch has the same batches.

    Args:
        target: M, called with `training=False`, here and never again.
        images: `(images, height, width, channels)`, floating point, in [0, 1].
        labels: Integer classes `(images,)`, for the metric `accuracy` and for nothing
            else. Defaults to none.
        output: What M returns.
        batch_size: How many images a batch has where there is no `order`. Defaults
            to `64`.
        order: Which images each batch has, `(batches, batch_size)`, as `batch_order`
            draws it. Defaults to all images in their order.

    Returns:
        Batches `(images, {"answer", "runner_up"[, "label"]})`.

    Raises:
        TypeError: If `target` is no Keras model or the images are not floating point.
        ValueError: If `target` is not a built classifier of such images, or there is
            not one label for each.
    """
    answers = frozen_answers(target, images, output=output)
    pixels = check_images(images, target.input_shape[1:])
    told: dict[str, npt.NDArray[np.integer]] = answers._asdict()
    if labels is not None:
        told["label"] = check_labels(
            labels, len(pixels), target.output_shape[1], name="labels"
        )
    return batches(pixels, told, batch_size=batch_size, order=order)


def is_array(data: Any) -> bool:
    """Says whether images are held in memory, and are no data set of batches."""
    return isinstance(data, np.ndarray | tf.Tensor)


def only_images(data: Any) -> Any:
    """Takes images out of a list or dict of nothing else, as Keras models do.

    Args:
        data: Images, or a list, tuple or dict of them alone; or any other data that
            `fit` takes.

    Returns:
        The images; what is no list, tuple or dict as it is.

    Raises:
        TypeError: If there is more than the images.
    """
    if not isinstance(data, list | tuple | Mapping):
        return data
    parts = list(data.values() if isinstance(data, Mapping) else data)
    if len(parts) != 1:
        what = sorted(map(str, data)) if isinstance(data, Mapping) else len(parts)
        raise TypeError(
            "Invalid value for argument `x`. Expected images, or batches (images, "
            f"labels). Received: a {type(data).__name__} of {what}"
        )
    return parts[0]


def check_told(told: Any, count: int, num_classes: int) -> Any:
    """Refuses labels that are not one class for each image.

    Args:
        told: Labels, `(count,)` or a column; or M's answers, or nothing.
        count: How many images there are.
        num_classes: How many classes there are.

    Returns:
        `told`; labels as integers.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If there is not one for each image, or one is no class.
    """
    if isinstance(told, Mapping) or told is None:
        return told
    labels = np.asarray(told)
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    return check_labels(labels, count, num_classes, name="y")


def answer_arrays(
    target: keras.Model, images: Any, told: Any, *, output: Output
) -> tuple[Any, Any]:
    """Joins images in an array with M's answers; what is no array passes as it is.

    Args:
        target: M, called with `training=False`.
        images: `(images, height, width, channels)`, floating point, in [0, 1]; or any
            data that `fit` takes.
        told: What goes with the images: integer labels, M's answers, or nothing.
        output: What M returns.

    Returns:
        The images, and M's answers by name with the labels where there are any.

    Raises:
        TypeError: If the images of an array are not floating point.
        ValueError: If they are not those of M, or M does not return what `output` says.
    """
    if not is_array(images):
        return images, told
    pixels = check_images(images, target.input_shape[1:], name="x")
    if isinstance(told, Mapping):
        return pixels, told
    labels = check_told(told, len(pixels), target.output_shape[-1])
    answers: dict[str, Any] = frozen_answers(target, pixels, output=output)._asdict()
    return pixels, answers if labels is None else {**answers, "label": labels}


def read_batch(
    data: Any, ask: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor | None]:
    """Takes apart what `fit` and `evaluate` hand to a step.

    Args:
        data: Images; or images and integer labels; or images and M's answers by name,
            and perhaps labels, as `answered_dataset` gives them.
        ask: M's logits of images, for where its answers are not there.

    Returns:
        The images, M's answers by name, and the labels `(batch,)` where there are any.

    Raises:
        TypeError: If the images are not floating point.
        ValueError: If there are sample weights, an answer is missing, or the labels
            are not one class for each image.
        tf.errors.InvalidArgumentError: When the step runs, not compiled by XLA, and a
            pixel is not in [0, 1].
    """
    images, told, weights = keras.utils.unpack_x_y_sample_weight(data)
    images = _checked(only_images(images))
    if weights is not None:
        raise ValueError(
            "Invalid value for argument `sample_weight`. Expected none: every image "
            "counts alike."
        )
    names = FrozenAnswers._fields
    if isinstance(told, Mapping):
        if missing := [name for name in names if name not in told]:
            raise ValueError(
                f"Invalid value for argument `y`. Expected M's answers by the names "
                f"{names}, as `answered_dataset` gives them. Received: none of the "
                f"name {missing[0]!r}"
            )
        answers = {name: told[name] for name in names}
        labels = told.get("label")
    else:
        answers = dict(zip(names, top_two(ask(images)), strict=True))
        labels = told
    return images, answers, None if labels is None else _one_class_each(labels)


def _checked(images: tf.Tensor) -> tf.Tensor:
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        raise TypeError(
            "Invalid value for argument `x`. Expected floating-point images in [0, 1]. "
            f"Received: dtype {images.dtype.name}"
        )
    # NaN is neither.
    inside = tf.reduce_all((images >= 0) & (images <= 1))
    told = "Invalid value for argument `x`. Expected pixels in [0, 1]. Received: from"
    limits = [told, tf.reduce_min(images), "to", tf.reduce_max(images)]
    with tf.control_dependencies([tf.debugging.Assert(inside, limits)]):
        return tf.identity(images)


def _one_class_each(labels: tf.Tensor) -> tf.Tensor:
    shape = tf.convert_to_tensor(labels).shape
    # A shape that is not known passes here.
    if not any(shape.is_compatible_with(known) for known in ([None], [None, 1])):
        raise ValueError(
            "Invalid value for argument `y`. Expected integer classes of shape "
            f"(batch,), not one-hot rows. Received: shape {tuple(shape)}"
        )
    return tf.reshape(labels, [-1])
