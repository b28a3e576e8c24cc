"""Classifiers of any pixel range, shape of images and output, in one form.

The form that attacks and evaluations work on: images `(batch, height, width, channels)`
with pixels from 0 to 1, and a column for each class.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_traps._checks import (
    UNIT,
    Bounds,
    FloatArray,
    check_bounds,
    check_flag,
    is_number,
    to_unit,
)
from keras_traps.models.inference import PerModel, inner_layers
from keras_traps.models.outputs import AttackedOutput

_forms: PerModel[dict[Any, keras.Model]] = PerModel()

# After its own first layers, a network's numbers span about 1 to 6.
_NARROWEST, _WIDEST = 0.1, 100.0
_USUAL: tuple[Bounds, ...] = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))


def wrap(
    model: keras.Model,
    *,
    scale: float | Sequence[float] = 1.0,
    offset: float | Sequence[float] = 0.0,
    flip_channels: bool = False,
) -> keras.Model:
    """Puts a model's preprocessing into the model.

    For models that need more than `bounds`: what their `preprocess_input` does to each
    channel. The result can be saved, and reloaded without this package.

    Args:
        model: A built Keras model of images.
        scale: What pixels are multiplied by, a number or one for each channel. Defaults
            to `1.0`.
        offset: What is added then, a number or one for each channel. Defaults to `0.0`.
        flip_channels: Whether the channels are reversed first, from RGB to BGR.
            Defaults to `False`.

    Returns:
        A functional model: `model(flipped * scale + offset)`. It shares the layers of
        `model`.

    Raises:
        ValueError: If `scale` or `offset` is not a number or one for each channel.

    Example:
    >>> resnet = keras.applications.ResNet50(weights=None)
    >>> means = [-103.939, -116.779, -123.68]
    >>> of_rgb = keras_traps.models.wrap(resnet, offset=means, flip_channels=True)
    >>> keras_traps.calibrate(of_rgb, images, bounds=(0, 255), ...)
    """
    check_flag("flip_channels", flip_channels)
    shape = model.input_shape[1:]
    image = keras.Input(shape, name="image")
    pixels = keras.ops.flip(image, axis=-1) if flip_channels else image
    scales, offsets = (
        _per_channel(value, shape[-1], name=name)
        for name, value in (("scale", scale), ("offset", offset))
    )
    pixels = keras.layers.Rescaling(
        scales, offsets, name="preprocessing", dtype="float32"
    )(pixels)
    return keras.Model(image, model(pixels), name=f"wrapped_{model.name}")


def standard_form(
    model: keras.Model, output: AttackedOutput, bounds: Bounds = UNIT
) -> keras.Model:
    """Returns a classifier in the form that this module names; itself if it has it.

    Flat images are one row of pixels of one channel, and images without a channel axis
    get one. A model with one output is one of two classes.
    """
    shape, binary = model.input_shape[1:], model.output_shape[-1] == 1
    if len(shape) == 3 and not binary and bounds == UNIT:
        return model

    def make() -> keras.Model:
        image = keras.Input(image_shape(shape), name="image")
        pixels = image
        if len(shape) != 3:
            pixels = keras.layers.Reshape(shape)(pixels)
        if bounds != UNIT:
            low, high = bounds
            pixels = keras.layers.Rescaling(high - low, low, dtype="float32")(pixels)
        answer = model(pixels)
        if binary:
            answer = two_columns(answer, output)
        return keras.Model(image, answer, name=model.name)

    made = _forms.get(model, dict)
    key = output, bounds
    if key not in made:
        made[key] = make()
    return made[key]


def in_standard_form(images: FloatArray, bounds: Bounds) -> FloatArray:
    """Returns images as the models of `standard_form` take them."""
    return to_unit(images, bounds).reshape(-1, *image_shape(images.shape[1:]))


def find_bounds(
    model: keras.Model, bounds: Bounds | None = None, *, name: str = "model"
) -> Bounds:
    """Returns the bounds that are given, else those of a trap in the model, else 0, 1.

    Raises:
        ValueError: If the bounds are not two numbers, or do not fit the model.
    """
    known = (getattr(layer, "bounds", None) for layer in inner_layers(model))
    own: Bounds | None = next((one for one in known if isinstance(one, tuple)), None)
    found = own or UNIT if bounds is None else check_bounds(bounds)
    if own is not None and found != own:
        raise ValueError(
            f"Invalid value for argument `bounds`. Expected {own}, for which "
            f"{model.name!r} was made. Received: bounds={bounds}"
        )
    check_first_layers(model, found, name=name)
    return found


def image_shape(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """Returns height, width and channels for images of any shape."""
    if len(shape) == 1:
        return (1, shape[0], 1)
    return (*shape, 1) if len(shape) == 2 else tuple(shape)


def two_columns(answer: keras.KerasTensor, output: AttackedOutput) -> keras.KerasTensor:
    """Writes the one output of a classifier of two classes as one for each class."""
    answer = keras.ops.cast(answer, "float32")
    other = 0.0 * answer if output == "logits" else 1.0 - answer
    return keras.ops.concatenate([other, answer], axis=-1)


def one_column(answer: keras.KerasTensor) -> keras.KerasTensor:
    """Writes rows of norm 1 as numbers in [0, 1], above 0.5 for the second class."""
    return 0.5 + 0.5 * (answer[:, 1:] - answer[:, :1])


def check_first_layers(model: keras.Model, bounds: Bounds, *, name: str) -> None:
    """Refuses bounds that the model's own `Rescaling` or `Normalization` do not fit."""
    layers = [layer for layer in _first_layers(model) if _is_affine(layer)]
    if not layers or _fits(layers, bounds):
        return
    fitting = [usual for usual in _USUAL if _fits(layers, usual)]
    least, largest = _span(layers, bounds)
    advice = "; ".join(f"bounds=({low:g}, {high:g})" for low, high in fitting)
    raise ValueError(
        f"Invalid value for argument `bounds`. The layer {layers[0].name!r} of "
        f"{model.name!r}, a {type(layers[0]).__name__}, makes numbers from "
        f"{least:.3g} to {largest:.3g} of pixels in [{bounds[0]:g}, {bounds[1]:g}]: "
        "it was made for pixels of another range. Pass images as the model was "
        f"trained on them, with {advice or 'their bounds'}. "
        f"Received: bounds=({bounds[0]:g}, {bounds[1]:g}) with `{name}`"
    )


def _first_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Lists what images pass before the first layer that has learnt weights."""
    for layer in inner_layers(model):
        if layer.weights and not (isinstance(layer, keras.Model) or _is_affine(layer)):
            return
        yield layer


def _is_affine(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)


def _span(layers: Sequence[keras.layers.Layer], bounds: Bounds) -> tuple[float, float]:
    """Returns the least and largest number that the layers make of pixels."""
    low, high = np.float64(bounds[0]), np.float64(bounds[1])
    for layer in layers:
        if isinstance(layer, keras.layers.Rescaling):
            scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
        else:
            mean, variance = np.asarray(layer.mean), np.asarray(layer.variance)
            scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
            offset = -mean * scale
            if layer.invert:
                scale, offset = 1 / scale, mean
        low, high = low * scale + offset, high * scale + offset
    return float(np.mean(low)), float(np.mean(high))


def _fits(layers: Sequence[keras.layers.Layer], bounds: Bounds) -> bool:
    least, largest = sorted(_span(layers, bounds))
    width = largest - least
    return _NARROWEST <= width <= _WIDEST and abs(largest + least) <= 4 * width


def _per_channel(
    value: float | Sequence[float], channels: int | None, *, name: str
) -> float | list[float]:
    if is_number(value):
        return float(value)  # type: ignore[arg-type]
    values = np.asarray(value).ravel().tolist()
    if len(values) != channels or not all(map(is_number, values)):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a number, or one for each "
            f"of {channels} channels. Received: {name}={value!r}"
        )
    return values
