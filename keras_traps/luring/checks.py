"""What a lured classifier asks of M and of P."""

import keras

from keras_traps.models.outputs import Output, check_classifier
from keras_traps.models.probe import check_on_noise


def check_target(target: keras.Model, output: Output, *, probe: bool = True) -> None:
    """Refuses what is no classifier M of images.

    Args:
        target: M.
        output: What it returns.
        probe: Whether it is shown noise. Defaults to `True`.

    Raises:
        TypeError: If it is no Keras model.
        ValueError: If it is not built, has fewer than 2 classes, is not one of images
            of a known size, or does not return what `output` says.
    """
    check_classifier(target, output, name="target")
    shape = target.input_shape[1:]
    if len(shape) != 3 or None in shape:
        raise ValueError(
            "Invalid value for argument `target`. Expected a classifier of images "
            "(height, width, channels) whose size is known. Received: input shape "
            f"{target.input_shape}"
        )
    if probe:
        check_on_noise(target, output)


def check_roles(target: keras.Model, lure: keras.layers.Layer) -> None:
    """Refuses to train anything but P.

    Args:
        target: M.
        lure: P.

    Raises:
        ValueError: If M is trainable, or P is not.
    """
    if target.trainable_variables:
        raise ValueError(
            "Invalid value for argument `target`. Expected a frozen classifier: "
            "luring trains P alone, so that M stays the model that is deployed. "
            "Set `target.trainable = False`. Received: "
            f"{target.name!r} with {len(target.trainable_variables)} "
            "trainable variables"
        )
    if not lure.trainable_variables:
        raise ValueError(
            "Invalid value for argument `lure`. Expected a network with trainable "
            "weights; thaw a frozen one by `lure.trainable = True`. Received: "
            f"{lure.name!r} without any"
        )
