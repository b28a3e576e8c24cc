"""The decoder's secrets, drawn from a key: messages and step sizes.

Both come from SHAKE-256 of the key, the same on every machine. Without the key they can
be neither predicted nor told from chance, and what is seen of one tells nothing of the
other.
"""

import hashlib
import hmac
import itertools
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from keras_traps._checks import check_count, is_integer

MessageKind = Literal["balanced", "random"]

# The six ways to give two pixels of a block of four the bit 1.
_BALANCED_BLOCKS = np.array(
    [bits for bits in itertools.product((0, 1), repeat=4) if sum(bits) == 2],
    dtype=np.uint8,
)
_SHORTEST = 16


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


def draw_messages(
    shape: Sequence[int],
    num_classes: int,
    *,
    key: Key,
    kind: MessageKind = "balanced",
) -> npt.NDArray[np.uint8]:
    """Draws one watermark message per class.

    `"random"` draws every bit alone. `"balanced"` gives every block of 2x2 pixels (of
    four in a row where images have one axis) two bits of each value: what the nearly
    equal neighbours of an image add to the distance nearly cancels, so that clean
    images spread less, while the gradient stays the same.

    Args:
        shape: Shape of one image, such as `(height, width, channels)`.
        num_classes: How many messages, at least 2.
        key: What they are drawn from.
        kind: How bits are drawn. Defaults to `"balanced"`.

    Returns:
        Bits `(num_classes, pixels)`, uint8, pixels in row-major order of `shape`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    shape = _checked(shape)
    check_count("num_classes", num_classes, at_least=2)
    # Products of NumPy's small integers overflow.
    num_classes = int(num_classes)
    if kind not in ("balanced", "random"):
        raise ValueError(
            'Invalid value for argument `kind`. Expected "balanced" or "random". '
            f"Received: kind={kind!r}"
        )
    grid, values = (shape, 2) if kind == "random" else (_grid(shape), 6)
    # The 32 bits scaled: the bias of values / 2**32 is far under one draw in all.
    raw = key.stream("messages", num_classes * math.prod(grid)).astype(np.uint64)
    draws = ((raw * np.uint64(values)) >> np.uint64(32)).astype(np.intp)
    if kind == "random":
        return draws.astype(np.uint8).reshape(num_classes, -1)
    blocks = _BALANCED_BLOCKS[draws].reshape(num_classes, *grid, 4)
    return np.stack([_spread(message, shape).ravel() for message in blocks])


def draw_steps(
    shape: Sequence[int], steps: Sequence[float], *, key: Key
) -> npt.NDArray[np.intp]:
    """Draws which step size each pixel has; the pixels of a block share one.

    Blocks are those of `draw_messages`, so that a balanced message is balanced within
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
    # A stable order of raw draws is a permutation that needs no distribution. Of 32
    # bits some are alike, of 64 none.
    raw = key.stream("steps", 2 * count).astype("<u4").view("<u8")
    order = np.argsort(raw, kind="stable")
    index = np.empty(count, dtype=np.intp)
    index[order] = np.arange(count) % len(steps)
    blocks = np.repeat(index[:, None], 4, axis=1).reshape(*grid, 4)
    return _spread(blocks, shape).ravel().astype(np.intp)


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


def _spread(
    blocks: npt.NDArray[np.generic], shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """Lays blocks `(*grid, 4)` out as an image, cutting what sticks out."""
    if len(shape) == 1:
        return blocks.reshape(-1)[: shape[0]]
    rows, columns, *rest = blocks.shape[:-1]
    image = blocks.reshape(rows, columns, *rest, 2, 2)
    image = np.moveaxis(image, (-2, -1), (1, 3)).reshape(2 * rows, 2 * columns, *rest)
    return image[: shape[0], : shape[1]]
