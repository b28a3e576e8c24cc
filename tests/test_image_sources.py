from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.image_sources import read_images

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 4, 5, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, 70)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
PAIRS = tf.data.Dataset.from_tensor_slices((PIXELS, LABELS))


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        rows = slice(20 * index, 20 * index + 20)
        return PIXELS[rows], LABELS[rows]


class Endless(Batches):
    """As `ImageDataGenerator.flow` makes one."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self[0]


SOURCES = {
    "array": (PIXELS, None),
    "tensor": (tf.constant(PIXELS), None),
    "list of images": (list(PIXELS), None),
    "list of batches": ([PIXELS[:50], PIXELS[50:]], None),
    "generator": ((PIXELS[i : i + 35] for i in (0, 35)), None),
    "data set of single images": (PAIRS, LABELS),
    "data set of batches": (PAIRS.batch(32), LABELS),
    "data set without labels": (PAIRS.map(lambda x, _: x).batch(32), None),
    "one-hot": (
        tf.data.Dataset.from_tensor_slices((PIXELS, ONE_HOT)).batch(32),
        LABELS,
    ),
    "column": (
        tf.data.Dataset.from_tensor_slices((PIXELS, LABELS[:, None])).batch(9),
        LABELS,
    ),
    "pairs of batches": (
        [(PIXELS[:50], LABELS[:50]), (PIXELS[50:], LABELS[50:])],
        LABELS,
    ),
    "PyDataset": (Batches(), LABELS),
    "pair of arrays": ((PIXELS, LABELS), LABELS),
    "dicts, as of tfds": (
        PAIRS.map(lambda x, y: {"image": x, "label": y}),
        LABELS,
    ),
    "list of single pairs": (list(zip(PIXELS, LABELS, strict=True)), LABELS),
    "generator of single images": ((image for image in PIXELS), None),
    "an iterator without an end that has a length": (Endless(), LABELS),
}


@pytest.mark.parametrize("name", SOURCES)
def test_images_of_any_source_become_one_array(name: str) -> None:
    source, expected = SOURCES[name]
    images, labels = read_images(source, rank=3)
    np.testing.assert_array_equal(images, PIXELS)
    assert images.dtype == np.uint8
    if expected is None:
        assert labels is None
    else:
        np.testing.assert_array_equal(labels, expected)


def test_labels_that_are_given_count_more_than_those_that_come_along() -> None:
    _, labels = read_images(PAIRS.batch(9), 2 - LABELS, rank=3)
    np.testing.assert_array_equal(labels, 2 - LABELS)
    _, labels = read_images(PIXELS, LABELS.astype(np.float32), rank=3)
    assert labels is not None
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (PAIRS.repeat(), "repeats for ever"),
        ([PIXELS[:3], PIXELS[:3, :2]], "images, or batches of them, of one shape"),
        (3, "an array, a .tf.data.Dataset. or an iterable of batches.*int"),
    ],
)
def test_what_is_no_source_of_images_is_refused(source: Any, expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"`images`.*{expected}"):
        read_images(source, rank=3)
