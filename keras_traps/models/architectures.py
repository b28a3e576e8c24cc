"""The classifiers of both papers, and one for the digits; how luring's are trained.

The attractor paper attacks the victims of the DEEPSEC platform (Section VI-B), which
return logits from which the row maximum is subtracted. The luring paper has
classifiers of its own. All take images in [0, 1] without further preprocessing.

References:
    Ling et al., DEEPSEC: A uniform platform for security analysis of deep learning
    models, IEEE S&P 2019.
    Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, 2020.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from keras_traps._checks import check_count, check_number
from keras_traps.layers.luring_networks import scaled
from keras_traps.models.outputs import subtract_row_maximum

Array = npt.NDArray[np.generic]


@dataclasses.dataclass(frozen=True)
class VictimRecipe:
    """How the authors train a target; its best epoch is kept."""

    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]
    boundaries: tuple[int, ...] = ()
    rotation: float = 0.0
    shift: float = 0.0
    validation_split: float = 0.17

    def __post_init__(self) -> None:
        """Checks the ranges that a training does not check itself."""
        check_count("epochs", self.epochs)
        check_count("batch_size", self.batch_size)
        split = self.validation_split
        check_number(split, name="validation_split", at_least=0.0, below=1.0)


VICTIM_RECIPES: dict[str, VictimRecipe] = {
    "mnist": VictimRecipe(5, 28, (1e-3,)),
    "svhn_cropped": VictimRecipe(10, 28, (1e-2,)),
    "cifar10": VictimRecipe(200, 32, (1e-2, 1e-3, 1e-4), (80, 120), 10.0, 5 / 32),
    # Not the authors': to try it with.
    "digits": VictimRecipe(20, 32, (2e-3,)),
}
"""By data set: the luring paper's supplement A, as its public code has it."""


def digits_cnn() -> keras.Model:
    """Builds a small CNN for the built-in digits, untrained.

    Returns:
        A model from images `(batch, 8, 8, 1)` in [0, 1] to logits `(batch, 10)`;
        30,634 parameters.
    """
    x = inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Dropout(0.25, name="dropout1")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.25, name="dropout2")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="digits_cnn")


def mnist_cnn() -> keras.Model:
    """Builds DEEPSEC's CNN for MNIST, untrained.

    Returns:
        A model from images `(batch, 28, 28, 1)` in [0, 1] to logits `(batch, 10)`;
        312,202 parameters.
    """
    x = inputs = keras.Input((28, 28, 1), name="image")
    for stage, filters in ((1, 32), (2, 64)):
        for conv in (0, 2):
            x = layers.Conv2D(
                filters, 3, activation="relu", name=f"conv{filters}.{conv}"
            )(x)
        x = layers.MaxPooling2D(name=f"pool{stage}")(x)
    # PyTorch flattens channels first; the dense kernels expect that order.
    x = layers.Permute((3, 1, 2), name="channels_first")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(200, activation="relu", name="fc1")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Dense(200, activation="relu", name="fc2")(x)
    x = layers.Dense(10, name="fc3")(x)
    return keras.Model(inputs, subtract_row_maximum(x), name="deepsec_mnist_cnn")


def cifar10_resnet20() -> keras.Model:
    """Builds DEEPSEC's ResNet-20 for CIFAR-10, untrained.

    Returns:
        A model from images `(batch, 32, 32, 3)` in [0, 1] to logits `(batch, 10)`;
        272,586 trainable parameters.
    """
    inputs = keras.Input((32, 32, 3), name="image")
    x = _conv_norm(inputs, 16, "conv1", "bn1", use_bias=True)
    x = layers.ReLU(name="relu")(x)
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range(3):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _basic_block(x, filters, stride, f"layer{stage}.{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(10, name="fc")(x)
    return keras.Model(inputs, subtract_row_maximum(x), name="deepsec_cifar10_resnet20")


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


def load_deepsec_weights(model: keras.Model, path: str | Path) -> keras.Model:
    """Loads a DEEPSEC state dict into a model of this module.

    Args:
        model: What `mnist_cnn()` or `cifar10_resnet20()` returned.
        path: An `.npz` archive of the PyTorch state dict: its names, kernels in the
            order output, input, height, width.

    Returns:
        `model`, with the weights of the archive.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ValueError: If the archive is damaged, lacks a name, has one too many, or
            holds an array of another shape. The model is not changed.
    """
    # NumPy leaves a file that it opened itself open where the archive is cut.
    with Path(path).open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                state = {name: _in_keras_order(archive[name]) for name in archive.files}
        except Exception as error:  # zipfile, zlib and NumPy each raise their own.
            raise ValueError(f"The archive {path} cannot be read: {error}") from error

    wanted = dict(_weight_names(model))
    shapes = {name: tuple(variable.shape) for name, variable in wanted.items()}
    for name in sorted({*wanted, *state}):
        found = state[name].shape if name in state else None
        if found == shapes.get(name) or name.endswith("num_batches_tracked"):
            continue
        raise ValueError(
            f"The archive {path} does not fit the model {model.name!r}. Expected "
            f"{name} of shape {shapes.get(name)}. Received: {found}"
        )
    for name, variable in wanted.items():
        variable.assign(state[name])
    return model


def _conv_norm(
    x: keras.KerasTensor,
    filters: int,
    conv: str,
    norm: str,
    *,
    kernel: int = 3,
    stride: int = 1,
    use_bias: bool = False,
) -> keras.KerasTensor:
    if stride > 1 and kernel > 1:
        # PyTorch pads both sides by one; "same" would pad the far side alone.
        x = layers.ZeroPadding2D(1, name=f"{conv}.pad")(x)
    padding = "valid" if stride > 1 else "same"
    x = layers.Conv2D(filters, kernel, stride, padding, use_bias=use_bias, name=conv)(x)
    return layers.BatchNormalization(epsilon=1e-5, name=norm)(x)


def _basic_block(
    x: keras.KerasTensor, filters: int, stride: int, name: str
) -> keras.KerasTensor:
    shortcut = x
    if stride > 1:
        conv, norm = f"{name}.downsample.0", f"{name}.downsample.1"
        shortcut = _conv_norm(
            x, filters, conv, norm, kernel=1, stride=stride, use_bias=True
        )
    x = _conv_norm(x, filters, f"{name}.conv1", f"{name}.bn1", stride=stride)
    x = layers.ReLU(name=f"{name}.relu1")(x)
    x = _conv_norm(x, filters, f"{name}.conv2", f"{name}.bn2")
    x = layers.Add(name=f"{name}.add")([x, shortcut])
    return layers.ReLU(name=f"{name}.relu2")(x)


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


def _weight_names(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """Yields each weight of the model with its name in the state dict."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            yield f"{layer.name}.weight", layer.gamma
            yield f"{layer.name}.bias", layer.beta
            yield f"{layer.name}.running_mean", layer.moving_mean
            yield f"{layer.name}.running_var", layer.moving_variance
        elif isinstance(layer, layers.Conv2D | layers.Dense):
            yield f"{layer.name}.weight", layer.kernel
            if layer.use_bias:
                yield f"{layer.name}.bias", layer.bias


def _in_keras_order(value: Array) -> Array:
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.transpose() if value.ndim == 2 else value
