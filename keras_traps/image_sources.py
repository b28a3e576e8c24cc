"""Images from wherever a caller has them: arrays, data sets, batches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array = npt.NDArray[Any]
Images = Any
"""What `read_images` takes: mostly an array, a `tf.data.Dataset` or batches."""


def read_images(
    images: Images, labels: npt.ArrayLike | None = None, *, rank: int
) -> tuple[Array, Array | None]:
    """Puts images from anywhere into one array, with the labels that come with them.

    Args:
        images: An array or tensor; a `tf.data.Dataset`, of batches or of single images;
            or an iterable of batches, such as a list, a generator or a `PyDataset`. The
            elements of these may be pairs of images and labels.
        labels: Labels in place of those that come with the images.
        rank: How many axes one image has.

    Returns:
        The images in the dtype that they have, and labels, integers, or `None`. One-hot
        rows become integers.

    Raises:
        TypeError: If the images are nothing of that.
        ValueError: If a data set is endless, or batches do not fit together.
    """
    if isinstance(images, tuple) and len(images) == 2 and labels is None:
        images, labels = images
    if _is_array(images, rank):
        return np.asarray(images), None if labels is None else _class_ids(labels)
    pairs = [_pair(part, rank) for part in _parts(images)]
    try:
        pixels = np.concatenate([pair[0] for pair in pairs])
        told = [pair[1] for pair in pairs if pair[1] is not None]
        if labels is None and len(told) == len(pairs):
            labels = np.concatenate(told)
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `images`. Expected images, or batches of them, "
            f"of one shape. Received {len(pairs)} parts: {error}"
        ) from None
    return pixels, None if labels is None else _class_ids(labels)


def _parts(images: Images) -> Iterable[Any]:
    """Lists the batches, or the single images, of what is no array."""
    if isinstance(images, tf.data.Dataset):
        if images.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "Invalid value for argument `images`. Expected a data set with an end, "
                "such as `images.take(100)`. Received one that repeats for ever."
            )
        return images.as_numpy_iterator()
    # Iterators of Keras have a length, and no end.
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        return (images[index] for index in range(len(images)))
    if isinstance(images, Iterable):
        return images
    raise TypeError(
        "Invalid value for argument `images`. Expected an array, a `tf.data.Dataset` "
        f"or an iterable of batches. Received: {type(images).__name__}"
    )


def _pair(part: Any, rank: int) -> tuple[Array, Array | None]:
    """Returns a batch of images, with its labels where it has some."""
    if isinstance(part, Mapping):
        part = [part[name] for name in ("image", "label") if name in part]
    pixels, *more = part if isinstance(part, tuple | list) and len(part) else (part,)
    pixels = np.asarray(pixels)
    labels = np.asarray(more[0]) if more else None
    if pixels.ndim == rank:
        return pixels[np.newaxis], None if labels is None else labels[np.newaxis]
    return pixels, labels


def _is_array(images: Images, rank: int) -> bool:
    if hasattr(images, "__array__") or not isinstance(images, Sequence):
        return hasattr(images, "__array__")
    # A list of images, not one of batches.
    return not images or (
        not isinstance(images[0], tuple | Mapping) and np.ndim(images[0]) <= rank
    )


def _class_ids(labels: npt.ArrayLike) -> Array:
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] > 1 and (array.sum(axis=1) == 1).all():
        return array.argmax(axis=1)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    # Those of one sigmoid come as floats from Keras.
    whole = array.dtype.kind == "f" and (array == np.floor(array)).all()
    return array.astype(np.int64) if whole else array
