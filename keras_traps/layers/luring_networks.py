"""The authors' architectures of the luring component P."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

_DROPOUT = {"mnist": 0.0, "svhn": 0.15, "cifar10": 0.3}

# What remains of a height or width that comes out as it went in, divided by what. The
# first that fits is taken; of the two for 32 by 32 svhn has a fifth of the work.
_SIZES = {"mnist": (8, 4), "svhn": (8, 0), "cifar10": (2, 0)}
_PADDED = "svhn"
_LEAST_PADDED = 4  # a margin mirrors pixels that are there

_POOL = "pool"
_UP = "up"

# Filters of convolutions, and what stands between them.
_SVHN = (128, _POOL, 256, _POOL, 512, 1024, _POOL, 512, 512, _UP, 256, _UP, 128, _UP)
_CIFAR10 = (128, 256, _POOL, 512, 1024, 512, 512, 256, _UP, 128)
_LAST_FILTERS = 64


def preset_dropout(preset: str, *, width: float) -> float:
    """Returns the authors' rate; below width 1, the one with the same noise.

    To the next convolution dropout is noise. In the mean over the filters its variance
    goes with rate / (1 - rate), and inversely with their number: with few filters the
    authors' rate would be many times the authors' noise.
    """
    rate = _DROPOUT[preset]
    if width >= 1.0:
        return rate
    noise = width * rate / (1.0 - rate)
    return noise / (1.0 + noise)


def preset_for(shape: Sequence[int], preset: str | None = None) -> str:
    """Returns the preset for images of this shape; refuses one that does not fit it."""
    sizes = shape[:2]
    fitting = [
        name
        for name, (step, rest) in _SIZES.items()
        if all(size % step == rest for size in sizes)
    ]
    if preset is not None:
        if preset in fitting:
            return preset
        raise ValueError(
            f"Invalid value for argument `preset`. Expected one that fits images of "
            f"{sizes[0]} by {sizes[1]} pixels: {', '.join(fitting) or 'none does'}. "
            "Sizes are 4 more than a multiple of 8 for mnist, multiples of 8 for svhn, "
            f"even for cifar10, and any without a preset. Received: preset={preset!r}"
        )
    # Eight filters at an eighth of the size are few for colours.
    if "mnist" in fitting and (*shape, 1)[2] != 1:
        fitting.remove("mnist")
    if not fitting and min(sizes) < _LEAST_PADDED:
        raise ValueError(
            "Invalid value for argument `images`. Expected images of at least 8 by 8 "
            f"pixels. Received: {sizes[0]} by {sizes[1]}"
        )
    return fitting[0] if fitting else _PADDED


def preset_network(
    preset: str,
    shape: Sequence[int],
    *,
    width: float,
    dropout: float,
    dtype: Any,
) -> keras.Model:
    """Builds one of the authors' architectures, untrained, for images of this shape.

    Images `(height, width)` are of one channel. Sizes that the preset does not fit are
    padded inside.
    """
    x = inputs = keras.Input(tuple(shape), name="image")
    channels = (*shape, 1)[2]
    if len(shape) == 2:
        x = layers.Reshape((*shape, 1), dtype=dtype)(x)
    step, rest = _SIZES[preset]
    missing = [(rest - size) % step for size in shape[:2]]
    margins = [(size // 2, size - size // 2) for size in missing]
    if any(missing):
        # Mirrored, for black bars would be an edge that the image does not have.
        x = keras.ops.pad(x, [(0, 0), *margins, (0, 0)], mode="symmetric")
    if preset == "mnist":
        x = _mnist(x, channels, width, dtype)
    else:
        plan = _SVHN if preset == "svhn" else _CIFAR10
        x = _normalized(x, plan, channels, width, dropout, dtype)
    if any(missing):
        x = layers.Cropping2D(margins, dtype=dtype)(x)
    if len(shape) == 2:
        x = layers.Reshape(tuple(shape), dtype=dtype)(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="pixels")(x)
    return keras.Model(inputs, outputs, name=f"luring_{preset}")


def _mnist(
    x: keras.KerasTensor, channels: int, width: float, dtype: Any
) -> keras.KerasTensor:
    def convolve(x: keras.KerasTensor, filters: int, **options: Any) -> Any:
        settings = {"padding": "same", "activation": "relu", "dtype": dtype, **options}
        return layers.Conv2D(scaled(filters, width), 3, **settings)(x)

    for filters in (16, 8):
        x = layers.MaxPooling2D(padding="same", dtype=dtype)(convolve(x, filters))
    x = convolve(x, 8, strides=2)
    for filters, padding in ((8, "same"), (8, "same"), (16, "valid")):
        x = layers.UpSampling2D(dtype=dtype)(convolve(x, filters, padding=padding))
    return layers.Conv2D(channels, 3, padding="same", dtype=dtype)(x)


def _normalized(
    x: keras.KerasTensor,
    plan: Sequence[int | str],
    channels: int,
    width: float,
    dropout: float,
    dtype: Any,
) -> keras.KerasTensor:
    first = True
    for part in (*plan, _LAST_FILTERS):
        if isinstance(part, str):
            kind = layers.MaxPooling2D if part == _POOL else layers.UpSampling2D
            x = kind(dtype=dtype)(x)
            continue
        x = layers.Conv2D(scaled(part, width), 3, padding="same", dtype=dtype)(x)
        x = layers.BatchNormalization(dtype=dtype)(x)
        x = layers.ReLU(dtype=dtype)(x)
        if first:
            x = layers.Dropout(dropout, dtype=dtype)(x)
            first = False
    x = layers.Dropout(dropout, dtype=dtype)(x)
    x = layers.Conv2D(channels, 3, padding="same", dtype=dtype)(x)
    return layers.BatchNormalization(dtype=dtype)(x)


def scaled(filters: int, width: float) -> int:
    """Returns a number of filters or units times a width, at least 1."""
    return max(1, round(filters * width))
