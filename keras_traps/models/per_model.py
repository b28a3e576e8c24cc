"""What is made of a model once, and anew when the model is built otherwise."""

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import keras

from keras_traps.models.inner_layers import inner_layers

Made = TypeVar("Made")


class PerModel(Generic[Made]):
    """Keeps one thing for each model, as long as the model lives and stays as it is.

    What was traced of a model goes on computing what the model was. New values of its
    weights are seen; other layers, other weights, and an `activation`, a quantization
    or a LoRA that has changed are not: with any of these what is kept is dropped.
    """

    def __init__(self) -> None:
        self._kept: weakref.WeakKeyDictionary[keras.Model, tuple[_Structure, Made]]
        self._kept = weakref.WeakKeyDictionary()

    def get(self, model: keras.Model, make: Callable[[], Made]) -> Made:
        """Returns what is kept for a model.

        Args:
            model: A built model, which is not kept alive by its entry.
            make: Makes what is to be kept, if there is nothing or the model has
                changed. It must not hold the model itself.

        Returns:
            What `make` returned; the same at every call for a model that stays as it
            is.
        """
        kept = self._kept.get(model)
        if kept is not None and kept[0].is_of(model):
            return kept[1]
        made = make()
        # Afterwards, for a model may be built only when it is called.
        self._kept[model] = _Structure(model), made
        return made


class _Structure:
    """What a trace of a model depends on, without holding any of it."""

    def __init__(self, model: keras.Model) -> None:
        objects, self._values = _parts(model)
        # Numbers of objects are given again once these are gone; references are not.
        self._references = [_reference(part) for part in objects]

    def is_of(self, model: keras.Model) -> bool:
        objects, values = _parts(model)
        return (
            values == self._values
            and len(objects) == len(self._references)
            and all(
                reference() is part
                for reference, part in zip(self._references, objects, strict=True)
            )
        )


def _parts(model: keras.Model) -> tuple[list[Any], list[Any]]:
    objects, values = list(model.weights), []
    for layer in _layers(model):
        # Of an instance's own: a method of that name is another object each time.
        own = vars(layer)
        objects += [layer, own.get("activation")]
        values += [getattr(layer, "quantization_mode", None), own.get("lora_enabled")]
    return objects, values


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    # Not public, but only this tells the layer within one such as `TimeDistributed`.
    flatten = getattr(model, "_flatten_layers", None)
    return list(inner_layers(model) if flatten is None else flatten(include_self=False))


def _reference(part: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(part)
    except TypeError:  # `None`, and what has slots
        return lambda: part
