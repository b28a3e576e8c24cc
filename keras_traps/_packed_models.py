"""Small files of models of known architecture, their weights in half precision."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import keras
import numpy as np

from keras_traps._checks import FloatArray
from keras_traps._files import write_atomically
from keras_traps.layers import LuringInput
from keras_traps.models import madry_mnist_cnn
from keras_traps.models.inference import predict

Architecture = Literal["madry_mnist_cnn", "luring_mnist"]
"""What a file can hold, by name."""


def _lure(width: float) -> keras.Model:
    inputs = keras.Input((28, 28, 1), name="image")
    layer = LuringInput("mnist", width=width, name="lure")
    return keras.Model(inputs, layer(inputs), name="lure")


_BUILD: dict[str, Callable[[float], keras.Model]] = {
    "madry_mnist_cnn": madry_mnist_cnn,
    "luring_mnist": _lure,
}


def pack_model(
    model: keras.Model,
    path: Path,
    *,
    architecture: Architecture,
    width: float = 1.0,
    half: bool = True,
) -> None:
    """Writes a model's weights, with its architecture's name.

    Args:
        model: One of that architecture.
        path: The `.npz` file; one that is there is replaced.
        architecture: Which.
        width: The width that it was built with. Defaults to `1.0`.
        half: Whether in half precision, which takes half the space: `changed_answers`
            says what it costs. Defaults to `True`.

    Raises:
        ValueError: If the model has weights of other shapes, or a number that the
            precision cannot hold.
    """
    expected = [tuple(w.shape) for w in _build(architecture, width).weights]
    weights = model.get_weights()
    if [weight.shape for weight in weights] != expected:
        raise ValueError(
            "Invalid value for argument `model`. Expected the weights of "
            f"{architecture!r} of width {width}, of the shapes {expected}. Received: "
            f"{[weight.shape for weight in weights]}"
        )
    with np.errstate(over="ignore"):
        held = [w.astype(np.float16 if half else np.float32) for w in weights]
    if not all(np.isfinite(weight).all() for weight in held):
        raise ValueError(
            "Invalid value for argument `model`. Expected weights that the precision "
            "can hold; half precision ends at 65504. Received: one that is beyond, or "
            "not finite"
        )
    buffer = io.BytesIO()
    named = {f"w{i}": weight for i, weight in enumerate(held)}
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        architecture=np.array(architecture),
        width=np.array(width),
        **named,
    )
    write_atomically(path, buffer.getvalue())


def unpack_model(path: Path) -> keras.Model:
    """Loads what `pack_model` wrote.

    Args:
        path: The file.

    Returns:
        The model, float32, frozen.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the architecture is unknown.
    """
    with np.load(path, allow_pickle=False) as found:
        model = _build(str(found["architecture"]), float(found["width"]))
        model.set_weights(
            [found[f"w{i}"].astype(np.float32) for i in range(len(model.weights))]
        )
    model.trainable = False
    return model


def changed_answers(first: keras.Model, second: keras.Model, images: FloatArray) -> int:
    """Counts the images to which two classifiers give different classes.

    Args:
        first: A classifier.
        second: Another.
        images: `(images, ...)`, float32.

    Returns:
        How many.
    """
    answers = [predict(model, images).argmax(axis=1) for model in (first, second)]
    return int((answers[0] != answers[1]).sum())


def _build(architecture: str, width: float) -> keras.Model:
    if architecture not in get_args(Architecture):
        raise ValueError(
            "Invalid value for argument `architecture`. Expected one of "
            f"{get_args(Architecture)}. Received: architecture={architecture!r}"
        )
    return _BUILD[architecture](width)
