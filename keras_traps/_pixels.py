"""Pixels of a model's range as shares of it, and back; grey levels in that range."""

import numpy as np

from keras_traps._checks import UNIT, Bounds, FloatArray


def to_unit(images: FloatArray, bounds: Bounds) -> FloatArray:
    """Returns pixels of `bounds` as shares of the range, from 0 to 1."""
    if bounds == UNIT:
        return images
    low, high = bounds
    return np.clip((images - np.float32(low)) / np.float32(high - low), 0, 1)


def from_unit(images: FloatArray, bounds: Bounds) -> FloatArray:
    """Does the reverse of `to_unit`."""
    if bounds == UNIT:
        return images
    low, high = bounds
    moved = images * np.float32(high - low) + np.float32(low)
    return np.clip(moved, np.float32(low), np.float32(high))


def pixels_of_levels(bounds: Bounds) -> FloatArray:
    """Returns by grey level, 0 to 255, what pixel of `bounds` it is, `(256,)`."""
    low, high = bounds
    # In float64, so that of the bounds 0 and 255 the levels are the pixels.
    pixels = (low + np.arange(256) * (high - low) / 255).astype(np.float32)
    return np.clip(pixels, np.float32(low), np.float32(high))
