"""Classifiers of any pixel range, shape of images and output, in one form.

The form that attacks and evaluations work on: images `(batch, height, width, channels)`
with pixels from 0 to 1, and a column for each class.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_traps._checks import (
    UNIT,
    Bounds,
    FloatArray,
    KnowsBounds,
    check_bounds,
    check_flag,
    is_number,
)
from keras_traps._pixels import from_unit, to_unit
from keras_traps.datasets import Dataset
from keras_traps.models.inference import (
    TRACING,
    PerModel,
    as_graph,
    inner_layers,
    predict,
)
from keras_traps.models.outputs import AttackedOutput, answers_of, check_classifier

_forms: PerModel[dict[Any, keras.Model]] = PerModel()

# After its own first layers, a network's numbers span 1 to 6, or 255 where only means
# are taken off; what was made for 0 to 1 makes 510 or more of 0 to 255.
_NARROWEST, _WIDEST = 0.1, 400.0
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
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, `scale` or `offset` is not a number or one for
            each channel, or channels to flip are not the last three.

    Example:
    >>> resnet = keras.applications.ResNet50(weights=None)
    >>> means = [-103.939, -116.779, -123.68]
    >>> of_rgb = keras_traps.models.wrap(resnet, offset=means, flip_channels=True)
    >>> keras_traps.calibrate(of_rgb, images, bounds=(0, 255), ...)
    """
    check_flag("flip_channels", flip_channels)
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Invalid value for argument `model`. Expected a Keras model. Received: "
            f"{type(model).__name__}"
        )
    shape = getattr(model, "input_shape", (None,))[1:]
    if not shape:
        raise ValueError(
            "Invalid value for argument `model`. Expected a built model of images. "
            f"Received: {model.name!r}"
        )
    if flip_channels and shape[-1] != 3:
        raise ValueError(
            "Invalid value for argument `flip_channels`. Expected `False` for images "
            f"whose last axis is not of three channels. Received: shape {shape}"
        )
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
        # Shares the layers, and not the model: that would never be freed.
        inner = as_graph(model, name=model.name)
        image = keras.Input(image_shape(shape), name="image")
        pixels = image
        if len(shape) != 3:
            pixels = keras.layers.Reshape(shape)(pixels)
        if bounds != UNIT:
            low, high = bounds
            pixels = keras.layers.Rescaling(high - low, low, dtype="float32")(pixels)
        answer = inner(pixels)
        if binary:
            answer = two_columns(answer, output)
        return keras.Model(image, answer, name=model.name)

    with TRACING:
        made = _forms.get(model, dict)
        key = output, bounds
        if key not in made:
            made[key] = make()
        return made[key]


def in_standard_form(images: FloatArray, bounds: Bounds) -> FloatArray:
    """Returns images as the models of `standard_form` take them."""
    return to_unit(images, bounds).reshape(-1, *image_shape(images.shape[1:]))


def for_model(model: keras.Model, images: FloatArray, bounds: Bounds) -> FloatArray:
    """Returns images with pixels from 0 to 1 as a model takes them."""
    return from_unit(images, bounds).reshape(-1, *model.input_shape[1:])


def class_answers(
    model: keras.Model,
    images: FloatArray,
    output: AttackedOutput,
    bounds: Bounds = UNIT,
) -> FloatArray:
    """Returns a column for each class, of images with pixels from 0 to 1."""
    return answers_of(predict(model, for_model(model, images, bounds)), output)


def check_data(model: keras.Model, data: Dataset, *, name: str = "classifier") -> None:
    """Refuses a classifier of other images, or of other classes, than the data are.

    A classifier may be without the axis of one channel, or take flat images.
    """
    classes = check_classifier(model, "logits", name=name)
    shape, given = model.input_shape[1:], data.pixels.shape[1:]
    # One channel may lie anywhere.
    alike = [size for size in shape if size > 1] == [size for size in given if size > 1]
    if not (alike or shape == (math.prod(given),)):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of images of the shape "
            f"{given}, as those of {data.name!r} are. Received: {model.name!r} of "
            f"images of the shape {shape}"
        )
    if classes != data.num_classes:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of {data.num_classes} "
            f"classes, as {data.name!r} has. Received: {model.name!r} of {classes} "
            "classes"
        )


def find_bounds(
    model: keras.Model, bounds: Bounds | None = None, *, name: str = "model"
) -> Bounds:
    """Returns the bounds that are given, else those of traps in the model, else 0, 1.

    Raises:
        ValueError: If the bounds are not two numbers, or do not fit the model.
    """
    traps = (one for one in inner_layers(model) if isinstance(one, KnowsBounds))
    own: Bounds | None = next((one.bounds for one in traps), None)
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
    fitting = fitting_bounds(model)
    least, largest = _span(layers, bounds)
    advice = "; ".join(f"bounds=({low:g}, {high:g})" for low, high in fitting)
    raise ValueError(
        f"Invalid value for argument `bounds`. The layer {layers[0].name!r} of "
        f"{model.name!r}, a {type(layers[0]).__name__}, makes numbers from "
        f"{least:.3g} to {largest:.3g} of pixels in [{bounds[0]:g}, {bounds[1]:g}]: "
        "it was made for pixels of another range. Pass images as the model was "
        f"trained on them, with {advice or 'their bounds'}. "
        f"Received: bounds=({bounds[0]:g}, {bounds[1]:g}) for `{name}`"
    )


def fitting_bounds(model: keras.Model) -> list[Bounds]:
    """Lists the usual bounds that the model's own `Rescaling` or the like fit."""
    layers = [layer for layer in _first_layers(model) if _is_affine(layer)]
    return [usual for usual in _USUAL if not layers or _fits(layers, usual)]


def _first_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Lists what images pass before the first learnt layer, as far as that is known."""
    for one in _operations(model):
        # Arithmetic and layers of one's own may change the range of pixels.
        known = isinstance(one, keras.layers.Layer) and not (
            isinstance(one, keras.layers.Lambda)
            or type(one).__module__.partition(".")[0] != "keras"
        )
        if not known or (one.weights and not _is_affine(one)):
            return
        yield one


def _operations(model: keras.Model) -> Iterator[keras.Operation]:
    # A sequential model has layers alone.
    for one in getattr(model, "operations", model.layers):
        if isinstance(one, keras.Model):
            yield from _operations(one)
        else:
            yield one


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
    # A channel that never changes is scaled beyond measure.
    return float(np.median(low)), float(np.median(high))


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
