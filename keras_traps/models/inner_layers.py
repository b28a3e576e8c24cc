"""The layers of a model and of the models within it."""

from collections.abc import Iterator

import keras


def inner_layers(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Lists the layers of a model, those of a model within it behind that.

    Args:
        model: The model, or a layer, which has none.

    Yields:
        Each layer.
    """
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from inner_layers(layer)
