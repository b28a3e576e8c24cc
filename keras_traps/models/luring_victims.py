"""The luring paper's target classifiers, and the authors' settings to train them."""

import dataclasses
from collections.abc import Sequence

import keras
from keras import layers

from keras_traps._checks import check_number
from keras_traps.layers.luring_networks import scaled


@dataclasses.dataclass(frozen=True)
class VictimRecipe:
    """How the authors train a target.

    The checkpoint with the best validation accuracy is kept.

    Args:
        epochs: How often each image is seen.
        batch_size: Images per step.
        learning_rates: Adam's, in their order.
        boundaries: The epochs after which the next rate is taken.
        rotation: The largest random turn in degrees, either way.
        shift: The largest random shift, as a share of the image's size.
        validation_split: The share of training images that is only evaluated.
    """

    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]
    boundaries: tuple[int, ...] = ()
    rotation: float = 0.0
    shift: float = 0.0
    validation_split: float = 0.17


VICTIM_RECIPES: dict[str, VictimRecipe] = {
    "mnist": VictimRecipe(5, 28, (1e-3,)),
    "svhn_cropped": VictimRecipe(10, 28, (1e-2,)),
    "cifar10": VictimRecipe(200, 32, (1e-2, 1e-3, 1e-4), (80, 120), 10.0, 5 / 32),
}
"""By data set: the luring paper's supplement A, as its public code has it."""


def madry_mnist_cnn(width: float = 1.0) -> keras.Model:
    """Builds Madry's CNN for MNIST, untrained.

    Args:
        width: Multiplies filters and units, above 0. Defaults to `1.0`.

    Returns:
        A model from images `(batch, 28, 28, 1)` in [0, 1] to logits `(batch, 10)`;
        3,274,538 parameters at width 1.

    Raises:
        ValueError: If `width` is not above 0.
    """
    check_number(width, name="width", above=0.0)
    x = inputs = keras.Input((28, 28, 1), name="image")
    for index, filters in enumerate((32, 64), 1):
        x = layers.Conv2D(
            scaled(filters, width),
            5,
            padding="same",
            use_bias=False,
            activation="relu",
            name=f"conv{index}",
        )(x)
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(scaled(1024, width), activation="relu", name="dense")(x)
    # Whatever the dtype policy: close logits must not be rounded to equal ones.
    outputs = layers.Dense(10, dtype="float32", name="logits")(x)
    return keras.Model(inputs, outputs, name="madry_mnist_cnn")


def svhn_vgg(width: float = 1.0) -> keras.Model:
    """Builds the luring paper's VGG-like network for SVHN, untrained.

    Args:
        width: Multiplies filters and units, above 0. Defaults to `1.0`.

    Returns:
        A model from images `(batch, 32, 32, 3)` in [0, 1] to logits `(batch, 10)`;
        4,574,400 parameters at width 1.

    Raises:
        ValueError: If `width` is not above 0.
    """
    return _vgg((64, 128, 256), width, "svhn_vgg")


def cifar10_vgg(width: float = 1.0) -> keras.Model:
    """Builds the luring paper's VGG-like network for CIFAR-10, untrained.

    Args:
        width: Multiplies filters and units, above 0. Defaults to `1.0`.

    Returns:
        A model from images `(batch, 32, 32, 3)` in [0, 1] to logits `(batch, 10)`;
        10,367,360 parameters at width 1.

    Raises:
        ValueError: If `width` is not above 0.
    """
    return _vgg((128, 256, 512), width, "cifar10_vgg")


def _vgg(blocks: Sequence[int], width: float, name: str) -> keras.Model:
    check_number(width, name="width", above=0.0)
    x = inputs = keras.Input((32, 32, 3), name="image")
    padding = "valid"
    for block in blocks:
        for position in range(2):
            filters = scaled(block, width)
            x = layers.Conv2D(filters, 3, padding=padding, use_bias=False)(x)
            padding = "same"
            if position == 1:
                x = layers.MaxPooling2D()(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(0.25)(x)
        x = layers.Dense(scaled(1024, width), use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    outputs = layers.Dense(10, use_bias=False, dtype="float32", name="logits")(x)
    return keras.Model(inputs, outputs, name=name)
