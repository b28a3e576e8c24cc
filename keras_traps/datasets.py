"""Image classification data: built in, from `.npz` archives, or by tensorflow-datasets.

A data set that is not there is an error that says where it was looked for; nothing
else is ever loaded in its place.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array = npt.NDArray[Any]
Images = Any
"""What `read_images` takes: mostly an array, a `tf.data.Dataset` or batches."""
Split = Literal["train", "test"]

_DIGIT_NAMES = tuple(str(digit) for digit in range(10))
# fmt: off
_CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)
# fmt: on
# Naming the classes of labels beyond this would fill the memory.
_MAX_CLASSES = 100_000


class DatasetNotFoundError(FileNotFoundError):
    """A data set is in none of the places where it was looked for."""


class _Known(NamedTuple):
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    archives: tuple[str, ...]


_KNOWN = {
    "digits": _Known((8, 8, 1), _DIGIT_NAMES, ("digits.npz",)),
    "mnist": _Known((28, 28, 1), _DIGIT_NAMES, ("mnist.npz",)),
    "cifar10": _Known((32, 32, 3), _CIFAR10_NAMES, ("cifar10.npz",)),
    "svhn_cropped": _Known((32, 32, 3), _DIGIT_NAMES, ("svhn_cropped.npz", "svhn.npz")),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set of images and their classes.

    Args:
        name: The name by which it was loaded.
        split: `"train"` or `"test"`.
        pixels: uint8 grey levels, `(images, height, width, channels)`.
        labels: int64 classes from 0, `(images,)`.
        num_classes: How many classes there are.
        class_names: One per class.
        source: Where it came from, for reports; no path of this machine.
    """

    name: str
    split: Split
    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    num_classes: int
    class_names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def images(self) -> npt.NDArray[np.float32]:
        """The pixels as float32 in [0, 1], of the same shape; read-only."""
        images = np.divide(self.pixels, 255, dtype=np.float32)
        images.setflags(write=False)
        return images

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes of `pixels`, then those of `labels`, as hex."""
        digest = hashlib.sha256(self.pixels.tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def take(self, n: int, seed: int | None = None) -> Dataset:
        """Takes some of the images.

        Args:
            n: How many, from 1 to `len(self)`.
            seed: Of the random choice, without replacement and in random order. The
                first `n` images are taken where it is `None`. Defaults to `None`.

        Returns:
            A data set of `n` images, alike in all else.

        Raises:
            ValueError: If there are not as many images, or `n` is not positive.
        """
        if not 1 <= n <= len(self):
            _invalid("n", f"1 to {len(self)}, the number of images", n)
        chosen: slice | npt.NDArray[np.int64] = slice(n)
        if seed is not None:
            chosen = np.random.default_rng(seed).permutation(len(self))[:n]
        return dataclasses.replace(
            self, pixels=self.pixels[chosen], labels=self.labels[chosen]
        )


def load(
    name: str, split: Split = "train", data_dir: str | Path | None = None
) -> Dataset:
    """Loads one split of a data set.

    An archive `<name>.npz` in `data_dir`, in the layout of `keras.datasets`
    (`x_train`, `y_train`, `x_test`, `y_test`), comes first, whatever the name.
    `"digits"` (scikit-learn's 8x8 digits, a fixed stratified split of 1297 and 500
    images) is built in. `"mnist"`, `"cifar10"` and `"svhn_cropped"` come through
    tensorflow-datasets otherwise.

    Args:
        name: One of those four, or the name of an archive in `data_dir`.
        split: `"train"` or `"test"`. Defaults to `"train"`.
        data_dir: The folder of archives or of data that tensorflow-datasets has
            prepared. Nothing is downloaded where it is given. Where it is `None`,
            tensorflow-datasets looks in its own folder, and downloads what is not
            there. Defaults to `None`.

    Returns:
        The split. Its `num_classes` is 10 for the four names, and one more than the
        largest label of this split for others.

    Raises:
        DatasetNotFoundError: If there is no such data set; the message says where it
            was looked for and how to get it.
        ValueError: If an argument is none of the above, or the data are damaged or
            not uint8 images with one integer label each.

    Example:
        >>> keras_traps.datasets.load("digits", "test").images.shape
        (500, 8, 8, 1)
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if split not in get_args(Split):
        _invalid("split", "'train' or 'test'", split)
    if not name or Path(name).name != name:
        _invalid("name", "the name of a data set, without a folder", name)
    if folder is not None and folder.exists() and not folder.is_dir():
        _invalid("data_dir", "a folder", str(folder))
    known = _KNOWN.get(name)
    looked = []
    if folder is not None:
        for archive in known.archives if known else (f"{name}.npz",):
            if (folder / archive).is_file():
                return _from_archive(name, split, folder / archive)
            looked.append(str(folder / archive))
    if name == "digits":
        return _builtin_digits(split)
    if known is None:
        _not_found(name, looked)
    return _from_tfds(name, split, folder, looked)


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
    if isinstance(images, tf.data.Dataset):
        if images.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "Invalid value for argument `images`. Expected a data set with an end, "
                "such as `images.take(100)`. Received one that repeats for ever."
            )
        first = tf.nest.flatten(images.element_spec)[0]
        batched = images if first.shape.rank != rank else images.batch(256)
        parts = list(batched.as_numpy_iterator())
    elif _is_array(images, rank):
        return np.asarray(images), None if labels is None else _class_ids(labels)
    elif isinstance(images, Iterable):
        parts = list(images)
    elif hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        parts = [images[index] for index in range(len(images))]
    else:
        raise TypeError(
            "Invalid value for argument `images`. Expected an array, a "
            "`tf.data.Dataset` or an iterable of batches. "
            f"Received: {type(images).__name__}"
        )
    pairs = [part if isinstance(part, tuple | list) else (part,) for part in parts]
    try:
        pixels = np.concatenate([np.asarray(pair[0]) for pair in pairs])
        if labels is None and all(len(pair) > 1 for pair in pairs) and pairs:
            labels = np.concatenate([np.asarray(pair[1]) for pair in pairs])
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `images`. Expected batches of images of one "
            f"shape. Received {len(pairs)} batches: {error}"
        ) from None
    return pixels, None if labels is None else _class_ids(labels)


def _is_array(images: Images, rank: int) -> bool:
    if hasattr(images, "__array__") or not isinstance(images, Sequence):
        return hasattr(images, "__array__")
    # A list of images, not one of batches.
    return not images or (
        not isinstance(images[0], tuple) and np.ndim(images[0]) <= rank
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


def _invalid(argument: str, expected: str, received: object) -> NoReturn:
    raise ValueError(
        f"Invalid value for argument `{argument}`. Expected {expected}. "
        f"Received: {argument}={received!r}"
    )


def _builtin_digits(split: Split) -> Dataset:
    import sklearn
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    classes = digits.target
    indices = train_test_split(
        np.arange(len(classes)), test_size=500, stratify=classes, random_state=0
    )[0 if split == "train" else 1]
    # 17 grey levels, 0 ... 16.
    pixels = np.round(digits.images[indices] * (255 / 16)).astype(np.uint8)
    source = f"scikit-learn {sklearn.__version__} digits"
    return _checked(
        "digits", split, pixels, classes[indices], place=source, source=source
    )


def _from_archive(name: str, split: Split, path: Path) -> Dataset:
    keys = (f"x_{split}", f"y_{split}")
    try:
        # NumPy would leave a damaged file open. It reads arrays on demand only.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = [archive[key] for key in keys if key in archive.files]
            names = ", ".join(archive.files)
    except Exception as error:  # zipfile, zlib and NumPy each raise their own.
        raise ValueError(f"The archive {path} cannot be read: {error}") from error
    if len(arrays) < len(keys):
        raise ValueError(
            f"The archive {path} is not in the layout of keras.datasets. "
            f"Expected arrays named {' and '.join(keys)}. Received: {names or 'none'}"
        )
    return _checked(name, split, *arrays, place=f"the archive {path}", source=path.name)


def _from_tfds(
    name: str, split: Split, folder: Path | None, looked: Sequence[str]
) -> Dataset:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=folder)
    except Exception as error:  # Its description on disk may be damaged.
        raise ValueError(f"The data of {name!r} cannot be read: {error}") from error
    place = str(builder.data_path)
    if not builder.is_prepared():
        if folder is not None:
            _not_found(name, [*looked, place])
        try:
            builder.download_and_prepare()
        except Exception as error:  # Its downloader, file systems, check sums ...
            _not_found(name, [*looked, place], error)
    try:
        arrays = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    except Exception as error:
        raise ValueError(f"The data in {place} cannot be read: {error}") from error
    return _checked(
        name,
        split,
        arrays["image"],
        arrays["label"],
        place=place,
        source=f"tensorflow-datasets {builder.info.full_name}",
    )


def _not_found(
    name: str, looked: Sequence[str], error: Exception | None = None
) -> NoReturn:
    lines = [f"The data set {name!r} was not found."]
    if looked:
        lines += ["Looked in:", *(f"  {place}" for place in looked)]
    if error is not None:
        lines.append(f"The download failed: {type(error).__name__}: {error}")
    archive = _KNOWN[name].archives[0] if name in _KNOWN else f"{name}.npz"
    lines.append(
        f"Put an archive {archive} (x_train, y_train, x_test, y_test) into a folder "
        f"and pass that as `data_dir`."
    )
    if name in _KNOWN:
        lines.append(
            f"Or run `tfds build {name}`, with `--data_dir` for such a folder."
        )
    else:
        lines.append(f"Known without an archive: {', '.join(_KNOWN)}.")
    raise DatasetNotFoundError("\n".join(lines)) from error


def _checked(
    name: str, split: Split, pixels: Array, labels: Array, *, place: str, source: str
) -> Dataset:
    """Makes a `Dataset` of arrays that have its layout, or says what is wrong."""

    def fail(expected: str, array: Array) -> NoReturn:
        raise ValueError(
            f"Invalid {split} data of {name!r} in {place}. Expected {expected}. "
            f"Received dtype {array.dtype}, shape {array.shape}."
        )

    known = _KNOWN.get(name)
    if pixels.dtype != np.uint8:
        fail("uint8 pixels from 0 to 255", pixels)
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 4 or 0 in pixels.shape:
        fail("images of (images, height, width[, channels]), none empty", pixels)
    if known and pixels.shape[1:] != known.shape:
        fail(f"images of the shape {known.shape}", pixels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]  # keras.datasets.cifar10 has it so.
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        fail("one integer class per image, not one-hot rows", labels)
    if len(labels) != len(pixels):
        fail(f"as many labels as images, {len(pixels)}", labels)
    limit = len(known.class_names) if known else _MAX_CLASSES
    if labels.min() < 0 or labels.max() >= limit:
        found = f"{labels.min()} to {labels.max()}"
        fail(f"labels from 0 to {limit - 1}, not from {found}", labels)

    labels = labels.astype(np.int64)
    num_classes = limit if known else int(labels.max()) + 1
    names = known.class_names if known else tuple(map(str, range(num_classes)))
    for array in (pixels, labels):
        array.setflags(write=False)
    return Dataset(name, split, pixels, labels, num_classes, names, source)
