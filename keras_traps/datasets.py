"""Image classification data: from folders, archives or tensorflow-datasets.

A data set that is not there is an error that says where it was looked for; nothing
else is ever loaded in its place.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array = npt.NDArray[Any]
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

# What Keras reads from a folder.
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_FOLDER = "folder:"
_TEST_SHARE = 0.2
# With a configuration and a version, as tensorflow-datasets has names.
_TFDS_NAME = re.compile(r"\w+(/[\w.-]+)?(:[\d.*]+)?", re.ASCII)


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
    name: str,
    split: Split = "train",
    data_dir: str | Path | None = None,
    *,
    image_size: Sequence[int] | None = None,
) -> Dataset:
    """Loads one split of a data set.

    By `name` it comes from one of:

    - `"folder:PATH"`: image files in a folder for each class, whose names are the
      classes', sorted, in `PATH/train` and `PATH/test` where these exist. Else a fifth
      of each class in `PATH` is for tests, always the same. Images are grey where all
      are, and without transparency.
    - `"PATH.npz"`: an archive in the layout of `keras.datasets` (`x_train`, `y_train`,
      `x_test`, `y_test`), and where it has them `class_names`.
    - An archive `<name>.npz` in `data_dir`.
    - `"digits"`: scikit-learn's 8x8 digits, a fixed stratified split of 1297 and 500
      images.
    - Any image classification data of tensorflow-datasets that are prepared, such as
      `"imagenette/160px-v2"`. Where there is no test split, the validation split is
      taken, else the last fifth of the training split. `"mnist"`, `"cifar10"` and
      `"svhn_cropped"` are downloaded if need be.

    Args:
        name: See above.
        split: `"train"` or `"test"`. Defaults to `"train"`.
        data_dir: The folder of archives or of data that tensorflow-datasets has
            prepared. Nothing is downloaded where it is given. Where it is `None`,
            tensorflow-datasets looks in its own folder. Defaults to `None`.
        image_size: Height and width that images are resized to, as
            `keras.utils.image_dataset_from_directory` does but to whole grey levels,
            and if there is a third number the channels, 1 or 3. Defaults to `None`:
            they have to be of one size.

    Returns:
        The split. Where nothing tells the classes, there is one more than the largest
        label of this split.

    Raises:
        DatasetNotFoundError: If there is no such data set; the message says where it
            was looked for and how to get it.
        ValueError: If an argument is none of the above, or the data are damaged,
            of several sizes, or not uint8 images with one integer label each.

    Example:
    >>> keras_traps.datasets.load("digits", "test").images.shape
    (500, 8, 8, 1)
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if split not in get_args(Split):
        _invalid("split", "'train' or 'test'", split)
    size = None if image_size is None else tuple(image_size)
    if size is not None and not (
        len(size) in (2, 3) and min(size) >= 1 and size[2:] in ((), (1,), (3,))
    ):
        _invalid("image_size", "a height, a width and at most 1 or 3 channels", size)
    if name.startswith(_FOLDER):
        found = _from_folder(Path(name.removeprefix(_FOLDER)), split, size)
    elif name.endswith(".npz"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise DatasetNotFoundError(f"There is no archive {path}.")
        found = _from_archive(path.stem, split, path)
    else:
        if not _TFDS_NAME.fullmatch(name):
            expected = "the name of a data set, 'folder:PATH' or a path of an '.npz'"
            _invalid("name", expected, name)
        if folder is not None and folder.exists() and not folder.is_dir():
            _invalid("data_dir", "a folder", str(folder))
        found = _by_name(name, split, folder, size)
    return found if size is None else _resized(found, size)


def _by_name(
    name: str, split: Split, folder: Path | None, size: Sequence[int] | None
) -> Dataset:
    known = _KNOWN.get(name)
    looked = []
    if folder is not None and Path(name).name == name:
        for archive in known.archives if known else (f"{name}.npz",):
            if (folder / archive).is_file():
                return _from_archive(name, split, folder / archive)
            looked.append(str(folder / archive))
    if name == "digits":
        return _builtin_digits(split)
    return _from_tfds(name, split, folder, looked, size)


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
            classes = archive["class_names"] if "class_names" in archive.files else None
            names = ", ".join(archive.files)
    except Exception as error:  # zipfile, zlib and NumPy each raise their own.
        raise ValueError(f"The archive {path} cannot be read: {error}") from error
    if len(arrays) < len(keys):
        raise ValueError(
            f"The archive {path} is not in the layout of keras.datasets. "
            f"Expected arrays named {' and '.join(keys)}. Received: {names or 'none'}"
        )
    if classes is not None and (classes.ndim != 1 or classes.dtype.kind != "U"):
        raise ValueError(
            f"Invalid `class_names` in the archive {path}. Expected one text per "
            f"class. Received dtype {classes.dtype}, shape {classes.shape}."
        )
    return _checked(
        name,
        split,
        *arrays,
        class_names=None if classes is None else tuple(classes.tolist()),
        place=f"the archive {path}",
        source=path.name,
    )


def _from_folder(root: Path, split: Split, size: Sequence[int] | None) -> Dataset:
    root = root.expanduser()
    if not root.is_dir():
        raise DatasetNotFoundError(f"There is no folder {root}.")
    parts = [root / part for part in get_args(Split)]
    is_split = all(part.is_dir() for part in parts)
    places = dict(zip(get_args(Split), parts, strict=True)) if is_split else {"": root}
    classes = sorted({one.name for place in places.values() for one in _folders(place)})
    if not classes:
        raise ValueError(
            f"Invalid data in {root}. Expected a folder of images for each class, such "
            "as `cats` and `dogs`, or `train` and `test` with these in each. Received "
            "no folders."
        )
    files = {
        (part, name): _image_files(place / name)
        for part, place in places.items()
        for name in classes
    }
    if empty := [
        str(places[part] / name) for (part, name), some in files.items() if not some
    ]:
        raise ValueError(
            f"Invalid data in {root}. Expected images ({', '.join(_SUFFIXES)}) of each "
            f"class. Received none in {', '.join(empty)}"
        )
    channels = _channels_of([path for some in files.values() for path in some], size)
    chosen, labels = [], []
    for label, name in enumerate(classes):
        some = files[split, name] if is_split else _share_of(files["", name], split)
        chosen += some
        labels += [label] * len(some)
    pixels = np.stack([_read_image(path, channels, size) for path in chosen])
    return _checked(
        f"{_FOLDER}{root.name}",
        split,
        pixels,
        np.asarray(labels),
        class_names=tuple(classes),
        place=str(root),
        source=f"folder {root.name}",
    )


def _folders(place: Path) -> Iterator[Path]:
    return (one for one in place.iterdir() if one.is_dir() and one.name[0] != ".")


def _image_files(place: Path) -> list[Path]:
    return sorted(
        path
        for path in place.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.name[0] != "."
    )


def _share_of(files: list[Path], split: Split) -> list[Path]:
    """Returns those of a class that belong to the split; one alone is to train on."""
    order = np.random.default_rng(0).permutation(len(files))
    tests = max(round(_TEST_SHARE * len(files)), min(len(files) - 1, 1))
    chosen = order[:tests] if split == "test" else order[tests:]
    return [files[index] for index in sorted(chosen)]


def _channels_of(files: Sequence[Path], size: Sequence[int] | None) -> int:
    """Tells how many channels all files have, and refuses several sizes of images."""
    import PIL.Image

    grey, sizes = True, {}
    for path in files:
        try:
            with PIL.Image.open(path) as image:
                grey = grey and image.mode in ("1", "L", "LA", "I", "I;16")
                sizes[image.size[::-1]] = path
        except OSError as error:
            raise ValueError(f"The image {path} cannot be read: {error}") from error
    if size is None and len(sizes) > 1:
        shown = ", ".join(f"{h}x{w} ({path})" for (h, w), path in [*sizes.items()][:2])
        raise ValueError(
            "Invalid value for argument `image_size`. Expected a size, for the images "
            f"are of {len(sizes)}: {shown}. Received: image_size=None"
        )
    return size[2] if size is not None and len(size) == 3 else 1 if grey else 3


def _read_image(
    path: Path, channels: int, size: Sequence[int] | None
) -> npt.NDArray[np.uint8]:
    # As Keras reads a folder: another decoder of JPEG has other grey levels.
    try:
        content = tf.io.read_file(str(path))
        image = tf.io.decode_image(content, channels, expand_animations=False)
    except tf.errors.OpError as error:
        raise ValueError(f"The image {path} cannot be read: {error.message}") from error
    return np.asarray(image if size is None else _resize(image, size))


def _resize(images: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    if tuple(images.shape[-3:-1]) == tuple(size[:2]):
        return images
    return tf.cast(tf.round(tf.image.resize(images, size[:2])), tf.uint8)


def _resized(data: Dataset, size: Sequence[int]) -> Dataset:
    pixels, channels = data.pixels, size[2] if len(size) == 3 else data.pixels.shape[3]
    batches = [pixels[start : start + 256] for start in range(0, len(pixels), 256)]
    pixels = np.concatenate([np.asarray(_resize(batch, size)) for batch in batches])
    if channels != pixels.shape[3]:
        images = tf.constant(pixels)
        if (pixels.shape[3], channels) == (1, 3):
            pixels = tf.image.grayscale_to_rgb(images).numpy()
        elif (pixels.shape[3], channels) == (3, 1):
            pixels = tf.image.rgb_to_grayscale(images).numpy()
        else:
            expected = f"{pixels.shape[3]} channels, as {data.name!r} has"
            _invalid("image_size", expected, tuple(size))
    pixels.setflags(write=False)
    return dataclasses.replace(data, pixels=pixels)


def _from_tfds(
    name: str,
    split: Split,
    folder: Path | None,
    looked: Sequence[str],
    size: Sequence[int] | None,
) -> Dataset:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        _not_found(name, looked)
    except Exception as error:  # Its description on disk may be damaged.
        raise ValueError(f"The data of {name!r} cannot be read: {error}") from error
    place = str(builder.data_path)
    if not builder.is_prepared():
        if folder is not None or name not in _KNOWN:
            _not_found(name, [*looked, place])
        try:
            builder.download_and_prepare()
        except Exception as error:  # Its downloader, file systems, check sums ...
            _not_found(name, [*looked, place], error)
    image, label = _tfds_keys(builder, place)
    part = _tfds_split(name, split, [*builder.info.splits])
    try:
        pairs = [
            (element[image], element[label])
            for element in tfds.as_numpy(builder.as_dataset(split=part))
        ]
    except Exception as error:
        raise ValueError(f"The data in {place} cannot be read: {error}") from error
    images = [pixels if size is None else _resize(pixels, size) for pixels, _ in pairs]
    if len(shapes := {tuple(image.shape) for image in images}) > 1:
        raise ValueError(
            "Invalid value for argument `image_size`. Expected a size, for the images "
            f"of {name!r} are of {len(shapes)}. Received: image_size=None"
        )
    return _checked(
        name,
        split,
        np.asarray(images),
        np.asarray([answer for _, answer in pairs]),
        class_names=tuple(builder.info.features[label].names),
        place=place,
        source=f"tensorflow-datasets {builder.info.full_name}",
    )


def _tfds_keys(builder: Any, place: str) -> tuple[str, str]:
    """Returns the names of the images and of their classes."""
    from tensorflow_datasets.core.features import ClassLabel, Image

    features = dict(builder.info.features.items())
    keys = builder.info.supervised_keys
    if not keys:
        # Of each kind, and so of several none.
        keys = tuple(
            ",".join(
                name for name, feature in features.items() if type(feature) is kind
            )
            for kind in (Image, ClassLabel)
        )
    image, label = keys[:2]
    if not isinstance(features.get(image), Image) or not isinstance(
        features.get(label), ClassLabel
    ):
        raise ValueError(
            f"Invalid data in {place}. Expected images with one class each. Received: "
            f"features {', '.join(features)}, of which {image or 'none'} is to be told "
            f"as {label or 'none'}"
        )
    return image, label


def _tfds_split(name: str, split: Split, there: Sequence[str]) -> str:
    """Returns the split's name, or what stands for it."""
    if "train" in there and "test" not in there:
        if split == "test" and "validation" in there:
            return "validation"
        if "validation" not in there:
            return "train[80%:]" if split == "test" else "train[:80%]"
    if split not in there:
        raise ValueError(
            f"The data of {name!r} have no split {split!r}, but {', '.join(there)}."
        )
    return split


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
        f"and pass that as `data_dir`, or name a folder of images as folder:PATH."
    )
    if name in _KNOWN:
        lines.append(
            f"Or run `tfds build {name}`, with `--data_dir` for such a folder."
        )
    else:
        lines.append(
            f"Known without an archive: {', '.join(_KNOWN)}, and what "
            "tensorflow-datasets has prepared."
        )
    raise DatasetNotFoundError("\n".join(lines)) from error


def _checked(
    name: str,
    split: Split,
    pixels: Array,
    labels: Array,
    *,
    class_names: tuple[str, ...] | None = None,
    place: str,
    source: str,
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
    named = known.class_names if known else class_names
    limit = _MAX_CLASSES if named is None else len(named)
    if labels.min() < 0 or labels.max() >= limit:
        found = f"{labels.min()} to {labels.max()}"
        fail(f"labels from 0 to {limit - 1}, not from {found}", labels)

    labels = labels.astype(np.int64)
    names = named or tuple(map(str, range(int(labels.max()) + 1)))
    for array in (pixels, labels):
        array.setflags(write=False)
    return Dataset(name, split, pixels, labels, len(names), names, source)
