r"""Tells which copy an adversarial image was made on, from the image alone.

An attack that followed the slopes of a copy left its watermarks in the image, and those
of no other key. An image is scored with the key of every copy, and with keys that
nobody has. How many of these score as high is the p-value: whatever the image is, and
whoever made it without the key, it is below 1 % in 1 % of all cases at most.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import FloatArray, check_count, check_images, check_share
from keras_traps.attractors.copies import Copy, Registry
from keras_traps.ops.codes import Key
from keras_traps.ops.qim import centred_wave
from keras_traps.provenance import array_sha256

# How many bytes the messages of some keys, and what images say of them, may take.
_BUDGET = 2**28

# The messages of a key with more numbers are not written out.
_MOST_WRITTEN = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """How much images look as if they were made on each copy.

    Args:
        copies: The copies.
        scores: `(copies, images)`, float32, in weighted grey levels.
        innocent: `(keys, images)`, float32: the scores of keys that nobody has.
    """

    copies: tuple[Copy, ...]
    scores: FloatArray
    innocent: FloatArray

    @functools.cached_property
    def p_values(self) -> npt.NDArray[np.float64]:
        """How likely as high a score is by chance, `(copies, images)`.

        It is the share of the innocent keys that score as high, the copy's own counted
        in, and so at least 1 / (keys + 1).
        """
        ranked = np.sort(self.innocent, axis=0)
        below = [
            np.searchsorted(own, scores, side="left")
            for own, scores in zip(ranked.T, self.scores.T, strict=True)
        ]
        count = len(self.innocent)
        return (count + 1 - np.stack(below, axis=1)) / (count + 1)

    @property
    def likeliest(self) -> npt.NDArray[np.intp]:
        """Which of the copies has the highest score, `(images,)`."""
        return self.scores.argmax(axis=0)

    def accused(self, fpr: float = 0.01) -> npt.NDArray[np.bool_]:
        """Names copies with so much evidence that chance is no explanation.

        Args:
            fpr: How often any copy at all may be named for an image that was made on
                none. Defaults to `0.01`.

        Returns:
            `(copies, images)`: whether the p-value times the number of copies is at
            most `fpr`.

        Raises:
            ValueError: If `fpr` is no share, or there are too few innocent keys for it.
        """
        check_share(fpr, name="fpr")
        if (needed := math.ceil(len(self.copies) / fpr) - 1) > len(self.innocent):
            raise ValueError(
                f"Invalid value for argument `fpr`. Expected a rate for which "
                f"{len(self.innocent)} innocent keys suffice; of {len(self.copies)} "
                f"copies {needed} are needed. Received: fpr={fpr}"
            )
        named: npt.NDArray[np.bool_] = self.p_values * len(self.copies) <= fpr
        return named

    def take(self, images: npt.NDArray[np.intp] | slice) -> "Trace":
        """Takes some of the images.

        Args:
            images: Their positions.

        Returns:
            Their trace.
        """
        return Trace(self.copies, self.scores[:, images], self.innocent[:, images])

    def together(self, count: int | None = None) -> "Trace":
        """Takes images for those of one sender, and adds their scores up.

        Args:
            count: How many are of one sender, one after the other; the last ones may be
                fewer. Defaults to `None`, all.

        Returns:
            A trace of one image for each sender.
        """
        starts = range(0, self.scores.shape[1], count or self.scores.shape[1])
        scores, innocent = (
            np.add.reduceat(each, starts, axis=1)
            for each in (self.scores, self.innocent)
        )
        return Trace(self.copies, scores, innocent)


def trace(
    images: npt.ArrayLike,
    registry: Registry,
    master: Key,
    *,
    innocent: int = 1000,
) -> Trace:
    """Scores images with the key of every copy, and with keys that nobody has.

    The score is the standard deviation over classes of the distance to the messages of
    a key, of which the analyzer's third condition is made. To all who do not have the
    key it is a sum of random signs, the same for every key: that makes scores
    comparable without clean images. The innocent keys are derived from the master key
    and the images, so that nobody can draw until the outcome pleases.

    Args:
        images: `(images, ...)`, pixels in the bounds of the settings: suspects.
        registry: The copies.
        master: The master key.
        innocent: How many keys that nobody has. Defaults to `1000`.

    Returns:
        The scores, with p-values.

    Raises:
        TypeError: If images are integers where the bounds are not.
        ValueError: If images are of another size, the master key is another, or
            `innocent` is below 1.

    Example:
    >>> traced = trace(images, registry, master)
    >>> traced.copies[traced.likeliest[0]].title, traced.p_values[:, 0].min()
    ('alice, version 1', 0.001)
    """
    check_count("innocent", innocent)
    own, settings = registry.keys(master), registry.settings_of(master)
    images = check_images(images, registry.shape, bounds=settings.bounds)
    nobody = master.derive(f"innocent {array_sha256(images)}")
    keys = own + [nobody.derive(str(number)) for number in range(innocent)]
    parts = [w.std(axis=2) for w in _watermarks(images, registry, keys)]
    scores = np.concatenate(parts)
    return Trace(registry.copies, scores[: len(own)], scores[len(own) :])


def _watermarks(
    images: FloatArray, registry: Registry, keys: Sequence[Key]
) -> Iterator[FloatArray]:
    """How near images are to messages, `(keys, images, classes)`, some keys at once."""
    settings, classes = registry.settings_of(keys[0]), registry.num_classes
    low, high = settings.bounds
    grey = np.float32(255.0 / (high - low)) * (images - np.float32(low))
    grey = grey.reshape(len(images), -1)
    steps, weights = np.asarray(settings.steps), np.asarray(settings.step_weights)
    pixels = np.arange(grey.shape[1])
    written = classes * len(steps) * len(pixels)

    def drawn(key: Key) -> tuple[ops.Code, npt.NDArray[np.intp]]:
        code = ops.draw_code(
            registry.shape, classes, key=key, messages=settings.messages
        )
        return code, ops.draw_steps(registry.shape, settings.steps, key=key)

    if written > _MOST_WRITTEN:
        for key in keys:
            code, index = drawn(key)
            tables = ops.qim_tables(code, steps[index], weights[index])
            yield -ops.qim_distance(tf.constant(grey), tables).numpy()[None]
        return
    # Every key has the same waves for each step size, and says which a pixel has, with
    # which sign: of all keys, that is one product.
    waves = [
        centred_wave(grey, np.float32(0.5 / step)) * np.float32(-2.0 * step * weight)
        for step, weight in zip(steps, weights, strict=True)
    ]
    waves = tf.concat(waves, axis=1)
    at_once = max(1, _BUDGET // (4 * (written + 2 * classes * len(images))))
    for start in range(0, len(keys), at_once):
        some = keys[start : start + at_once]
        signs = np.zeros((len(some), classes, len(steps), len(pixels)), np.float32)
        for own, key in zip(signs, some, strict=True):
            code, index = drawn(key)
            bits = np.where(code.bits(), np.float32(-1), np.float32(1))
            own[:, index, pixels] = bits
        rows = signs.reshape(len(some) * classes, -1)
        w = tf.matmul(rows, waves, transpose_b=True)
        w = tf.reshape(w, (len(some), classes, len(images)))
        yield tf.transpose(w, (0, 2, 1)).numpy()
