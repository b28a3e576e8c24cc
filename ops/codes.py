"""The decoder's secrets, drawn from a key: messages and step sizes.

All come from SHAKE-256 of the key, the same on every machine. Without the key they can
be neither predicted nor told from chance, and what is seen of one tells nothing of the
others.
"""

import dataclasses
import hashlib
import hmac
import itertools
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from keras_traps._checks import check_count, is_integer

MessageKind = Literal["balanced", "random"]
Number = TypeVar("Number", bound=np.generic)

# The six ways to give two pixels of a block of four each sign.
_BALANCED_BLOCKS = np.array(
    [signs for signs in itertools.product((1, -1), repeat=4) if sum(signs) == 0],
    dtype=np.int8,
)
_SHORTEST, _SHORTEST_MASTER = 16, 32
# In numbers of a row: about two lines of the processor's cache.
_LONGEST_STRIP = 24


class Key:
    """The secret that messages and step sizes are drawn from.

    Whoever has it can compute the watermark and attack past the traps. It is in no
    configuration, file, report or log but that which `save` writes, and its own text
    form shows a fingerprint.

    Args:
        secret: At least 16 bytes, as hard to guess as you can make them. Defaults to
            `None`: 32 bytes of the system's randomness.

    Raises:
        TypeError: If `secret` is not of bytes.
        ValueError: If there are fewer than 16.

    Example:
    >>> calibration = keras_traps.calibrate(classifier, images, key=keras_traps.Key())
    """

    def __init__(self, secret: bytes | None = None) -> None:
        if secret is None:
            secret = secrets.token_bytes(32)
        if not isinstance(secret, bytes):
            raise TypeError(
                "Invalid value for argument `key`. Expected bytes, a `Key` or `None`. "
                f"Received: {type(secret).__name__}"
            )
        if len(secret) < _SHORTEST:
            raise ValueError(
                f"Invalid value for argument `key`. Expected at least {_SHORTEST} "
                f"bytes. Received: {len(secret)} bytes"
            )
        self._secret = secret

    @classmethod
    def of(cls, key: "bytes | Key | None") -> "Key":
        """Returns the key that an argument `key` means.

        Args:
            key: A key, its secret, or `None` for a new one.

        Returns:
            A key, the same where it is one.

        Raises:
            TypeError: If it is nothing of that.
            ValueError: If the secret is too short.
        """
        return key if isinstance(key, Key) else cls(key)

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """Makes a public key of a number, for experiments that others can repeat.

        It protects nothing: whoever guesses the number has the key.

        Args:
            seed: An integer from 0 to 2**64 - 1.

        Returns:
            The same key on every machine.

        Raises:
            ValueError: If the seed is another.
        """
        if not (is_integer(seed) and 0 <= seed < 2**64):
            raise ValueError(
                "Invalid value for argument `seed`. Expected an integer from 0 to "
                f"2**64 - 1. Received: seed={seed!r}"
            )
        return cls(hashlib.sha256(b"keras_traps public key %d" % int(seed)).digest())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `save` wrote.

        Args:
            path: The file.

        Returns:
            The key.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it holds no key.
        """
        try:
            return cls(bytes.fromhex(Path(path).read_text("ascii")))
        except ValueError:
            raise ValueError(f"The file {path} holds no key.") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the key to a new file that its owner alone can read (mode 600).

        Args:
            path: Where to.

        Raises:
            FileExistsError: If there is a file: a key that is lost is lost for ever.
            OSError: If it cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
            file.write(f"{self._secret.hex()}\n")

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that tell keys apart, and nothing of the key."""
        return hashlib.sha256(b"keras_traps fingerprint" + self._secret).hexdigest()[
            :16
        ]

    def derive(self, name: str, version: int = 1) -> "Key":
        """Makes the key of a copy from this one, the master key.

        It is the HMAC-SHA-256 of the version and the name: whoever has the keys of some
        copies can tell neither the master key nor that of another copy.

        Args:
            name: Whose key: any text, in which every letter counts.
            version: How often this one's key was changed, from 1. Defaults to `1`.

        Returns:
            The same key on every machine, of 32 bytes.

        Raises:
            ValueError: If the master key has fewer than 32 bytes, the name is empty, or
                the version is below 1.
        """
        if len(self._secret) < _SHORTEST_MASTER:
            raise ValueError(
                "Invalid value for argument `master`. Expected a key of at least "
                f"{_SHORTEST_MASTER} bytes. Received: {len(self._secret)} bytes"
            )
        if not (isinstance(name, str) and name):
            raise ValueError(
                "Invalid value for argument `name`. Expected a text that is not empty. "
                f"Received: name={name!r}"
            )
        check_count("version", version)
        told = f"keras_traps derived key {version:d} {name}".encode()
        return Key(hmac.digest(self._secret, told, "sha256"))

    def stream(self, label: str, count: int) -> npt.NDArray[np.uint32]:
        """Draws 32-bit numbers; streams of other labels are independent.

        Args:
            label: What they are for.
            count: How many.

        Returns:
            `(count,)`, uint32, each value as likely as the others.
        """
        source = hashlib.shake_256(f"keras_traps {label} ".encode() + self._secret)
        return np.frombuffer(source.digest(4 * count), "<u4").astype(np.uint32)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Key(fingerprint={self.fingerprint!r})"


class Layout(NamedTuple):
    """How an image is cut up for a code: blocks, cells and strips.

    A block is 2x2 pixels of a channel, or four in a row where images have one axis. The
    blocks of all channels at one place are a cell, and some cells side by side a strip:
    few enough numbers for a fine mixture, and enough to be moved fast. What sticks out
    of the image counts as a part of it that holds nothing.

    Args:
        size: Height and width of the image in pixels.
        block: Height and width of a block.
        channels: How many numbers a pixel has.
        cells: How many cells a strip has.
        classes: How many messages there are.
    """

    size: tuple[int, int]
    block: tuple[int, int]
    channels: int
    cells: int
    classes: int

    @classmethod
    def of(cls, shape: Sequence[int], classes: int) -> Self:
        """Chooses the strips for images of a shape: the longest that fill its rows."""
        height, width = (1, shape[0]) if len(shape) == 1 else shape[:2]
        block = (1, 4) if len(shape) == 1 else (2, 2)
        channels = math.prod(shape[2:])
        in_row = -(-width // block[1])
        cells = max(
            cells
            for cells in range(1, in_row + 1)
            if in_row % cells == 0
            and (cells == 1 or cells * block[1] * channels <= _LONGEST_STRIP)
        )
        return cls((height, width), block, channels, cells, classes)

    @property
    def columns(self) -> int:
        """How many columns the code has, and so rows: a power of 2."""
        return 1 << (self.classes - 1).bit_length()

    @property
    def pixels(self) -> int:
        """How many numbers an image has."""
        return math.prod(self.size) * self.channels

    @property
    def grid(self) -> tuple[int, int]:
        """How many rows of blocks there are, and how many strips in each."""
        (height, width), (down, across) = self.size, self.block
        return -(-height // down), -(-width // across) // self.cells

    @property
    def blocks(self) -> int:
        """How many blocks a strip has."""
        return self.cells * self.channels

    @property
    def period(self) -> int:
        """After how many strips the places of their blocks begin again."""
        return self.columns // math.gcd(self.blocks, self.columns)


@dataclasses.dataclass(frozen=True, eq=False)
class Code:
    r"""Watermark messages, one per class, without a table of classes by pixels.

    The message of class $k$ has at pixel $i$ the sign $p_i H_{r_k, c_i}$, 1 for the bit
    0 and -1 for the bit 1. The pattern $p$ is a secret sign for every pixel and $H$
    Sylvester's Hadamard matrix, of which each class has a secret row $r_k$ and each
    block of pixels a secret column $c_i$. Two rows differ in half of the columns.

    The strips of an image are numbered in a secret order, and so are their blocks. A
    block's number modulo the number of columns is its place, and each column has a
    secret place: every column has the same number of blocks, to within one, and two
    messages differ in half of the pixels. What is left over where the blocks are no
    multiple of the columns is all that they can be correlated.

    Args:
        shape: Shape of one image.
        pattern: `(pixels,)`, int8, 1 or -1, in row-major order.
        strips: `(strips,)`, int32: the strips of the image in the secret order.
        places: `(columns,)`, int32: the place of each column.
        rows: `(num_classes,)`, int32: the row of each class.

    Reference:
        Sylvester, Thoughts on inverse orthogonal matrices, 1867.
    """

    shape: tuple[int, ...]
    pattern: npt.NDArray[np.int8]
    strips: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]

    @property
    def layout(self) -> Layout:
        """How images are cut up."""
        return Layout.of(self.shape, len(self.rows))

    @property
    def column(self) -> npt.NDArray[np.intp]:
        """The column of each pixel, `(pixels,)`."""
        layout = self.layout
        number = np.argsort(self.strips)[:, None] * layout.blocks
        place = (number + np.arange(layout.blocks)) % layout.columns
        column = np.argsort(self.places)[place].reshape(*_grid(self.shape), 1)
        return _spread(np.repeat(column, 4, axis=-1), self.shape).ravel()

    def bits(self) -> npt.NDArray[np.uint8]:
        """Writes all messages out.

        Returns:
            `(num_classes, pixels)`, uint8, bits 0 and 1: a byte for every class and
            pixel.
        """
        of_columns = np.bitwise_count(self.rows[:, None] & np.arange(len(self.places)))
        return (of_columns[:, self.column] & 1) ^ (self.pattern < 0).astype(np.uint8)


def draw_code(
    shape: Sequence[int],
    num_classes: int,
    *,
    key: Key,
    messages: MessageKind = "balanced",
) -> Code:
    """Draws one watermark message per class.

    `"random"` draws the pattern's sign for every pixel alone. `"balanced"` gives every
    block two of each sign: what the nearly equal neighbours of an image add to the
    distance nearly cancels, so that clean images spread less, while the gradient stays
    the same. Images whose blocks are each of one value, such as enlarged ones, then all
    have one distance.

    Args:
        shape: Shape of one image, such as `(height, width, channels)`.
        num_classes: How many messages, at least 2.
        key: What they are drawn from.
        messages: How the pattern is drawn. Defaults to `"balanced"`.

    Returns:
        The messages. More classes do not change the first ones up to the next power
        of 2.

    Raises:
        ValueError: If an argument is out of its range.
    """
    shape = _checked(shape)
    check_count("num_classes", num_classes, at_least=2)
    if messages not in ("balanced", "random"):
        raise ValueError(
            'Invalid value for argument `messages`. Expected "balanced" or "random". '
            f"Received: messages={messages!r}"
        )
    layout = Layout.of(shape, int(num_classes))
    return Code(
        shape=shape,
        pattern=_draw_pattern(shape, key, messages),
        strips=_permutation(key, "strips", math.prod(layout.grid)),
        places=_permutation(key, "columns", layout.columns),
        rows=_permutation(key, "rows", layout.columns)[: layout.classes],
    )


def draw_steps(
    shape: Sequence[int], steps: Sequence[float], *, key: Key
) -> npt.NDArray[np.intp]:
    """Draws which step size each pixel has; the pixels of a block share one.

    Blocks are those of `draw_code`, so that a balanced message is balanced within
    each step size. Every step size gets the same number of blocks, to within one.

    Args:
        shape: Shape of one image.
        steps: The step sizes, in grey levels.
        key: What they are drawn from.

    Returns:
        `(pixels,)`, an index into `steps` for each pixel in row-major order.

    Raises:
        ValueError: If `shape` or `steps` is empty.
    """
    shape = _checked(shape)
    # An array has no truth value.
    if len(steps) == 0:
        raise ValueError(
            "Invalid value for argument `steps`. Expected at least one step size. "
            f"Received: steps={tuple(steps)}"
        )
    grid = _grid(shape)
    count = math.prod(grid)
    index = np.empty(count, dtype=np.intp)
    index[_permutation(key, "steps", count)] = np.arange(count) % len(steps)
    blocks = np.repeat(index[:, None], 4, axis=1).reshape(*grid, 4)
    return _spread(blocks, shape).ravel().astype(np.intp)


def _draw_pattern(
    shape: tuple[int, ...], key: Key, kind: MessageKind
) -> npt.NDArray[np.int8]:
    grid, values = (shape, 2) if kind == "random" else (_grid(shape), 6)
    # The 32 bits scaled: the bias of values / 2**32 is far under one draw in all.
    raw = key.stream("pattern", math.prod(grid)).astype(np.uint64)
    draws = ((raw * np.uint64(values)) >> np.uint64(32)).astype(np.intp)
    if kind == "random":
        return (1 - 2 * draws).astype(np.int8)
    blocks = _BALANCED_BLOCKS[draws].reshape(*grid, 4)
    return _spread(blocks, shape).ravel()


def _permutation(key: Key, label: str, count: int) -> npt.NDArray[np.int32]:
    # A stable order of raw draws is a permutation that needs no distribution. Of 32
    # bits some are alike, of 64 none.
    raw = key.stream(label, 2 * count).astype("<u4").view("<u8")
    return np.argsort(raw, kind="stable").astype(np.int32)


def _checked(shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) == 0 or any(not is_integer(n) or n < 1 for n in shape):
        raise ValueError(
            "Invalid value for argument `shape`. Expected the positive sizes of one "
            f"image. Received: shape={tuple(shape)}"
        )
    return tuple(int(n) for n in shape)


def _grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """How many blocks each axis has; a part of a block counts as one."""
    if len(shape) == 1:
        return (-(-shape[0] // 4),)
    height, width, *rest = shape
    return (-(-height // 2), -(-width // 2), *rest)


def _spread(blocks: npt.NDArray[Number], shape: tuple[int, ...]) -> npt.NDArray[Number]:
    """Lays blocks `(*grid, 4)` out as an image, cutting what sticks out."""
    if len(shape) == 1:
        return blocks.reshape(-1)[: shape[0]]
    rows, columns, *rest = blocks.shape[:-1]
    image = blocks.reshape(rows, columns, *rest, 2, 2)
    image = np.moveaxis(image, (-2, -1), (1, 3)).reshape(2 * rows, 2 * columns, *rest)
    return image[: shape[0], : shape[1]]
