"""Checks of hyper-parameters that attacks share."""

import keras

from keras_traps.models.inner_layers import inner_layers


def check_image_model(model: keras.Model) -> None:
    """Refuses a model whose input is not images of one known size.

    Args:
        model: A built model with one input.

    Raises:
        ValueError: If it is not `(batch, height, width, channels)`, or a side is
            unknown.
    """
    shape = model.input_shape
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model whose input is "
            "(batch, height, width, channels) with known sides. Received: "
            f"{model.name!r} with input shape {shape}"
        )


def check_channels_last(model: keras.Model, *, name: str) -> None:
    """Refuses a model of which a layer takes the channels before height and width.

    Args:
        model: A built model.
        name: The attack's name, which the message is to tell.

    Raises:
        ValueError: If it has one, also in a model within the model.
    """
    for layer in inner_layers(model):
        if getattr(layer, "data_format", None) == "channels_first":
            raise ValueError(
                f"Invalid value for argument `model`. {name} goes by the height and "
                "width of images: expected layers with data_format='channels_last'. "
                f"Received: {model.name!r}, whose layer {layer.name!r} has "
                "data_format='channels_first'"
            )
