"""The trainable network that luring puts before a classifier, as a layer."""

from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import keras
import tensorflow as tf

from keras_traps._checks import (
    UNIT,
    Bounds,
    KnowsBounds,
    check_bounds,
    check_floating,
    check_number,
)
from keras_traps.layers.luring_networks import (
    preset_dropout,
    preset_for,
    preset_network,
)

LurePreset = Literal["mnist", "svhn", "cifar10"]
"""The architectures of the paper's component P, by the data set that each is for."""


@keras.saving.register_keras_serializable(package="keras_traps")
class LuringInput(KnowsBounds, keras.layers.Layer):
    """Maps an image to an image of the same shape: the component P of luring.

    Untrained it is no identity; `keras_traps.luring.LuredClassifier` trains it before
    a frozen classifier.

    With a half-precision dtype policy the convolutions run in half precision; the
    image that comes out is float32 under every policy.

    Args:
        preset: The authors' architecture for `"mnist"` (4,385 parameters; heights and
            widths that are 4 modulo 8), `"svhn"` (14.8 million; multiples of 8) or
            `"cifar10"` (as many, five times the work; even). The number of channels is
            that of the images. Defaults to `None`: the first of these that fits the
            images once their shape is known, `"mnist"` for one channel only; where none
            does, `"svhn"`, with a mirrored margin that is cut off again.
        width: Multiplies the filters of every hidden convolution, above 0; at least
            one is left. Defaults to `1.0`, the authors' size.
        dropout: The rate after the first and the last hidden convolution of `"svhn"`
            and `"cifar10"`, from 0 to below 1; `"mnist"` has none. Defaults to the
            authors' for luring, 0, 0.15 and 0.3; below width 1 to one that adds as
            much noise over fewer filters.
        network: Any Keras network from images to images of the same shape, in place of
            a preset; `width` and `dropout` are not used. It sees pixels in [0, 1]
            whatever the `bounds`. What it returns is cut to [0, 1]; beyond, its
            gradient is 0, so let it end in a sigmoid. Defaults to `None`.
        bounds: The least and the largest value of a pixel, of the images that come and
            of those that are returned: what the classifier behind takes. Defaults to
            `(0.0, 1.0)`.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        images: `(batch, height, width, channels)` or `(batch, height, width)`; with a
            `network` of any shape. Floating point, or integers where the bounds are
            (and are not 0 and 1), pixels in `bounds`.
        training: Passed on to the network: whether dropout and batch normalisation
            act as in training.

    Returns:
        Images of the same shape, float32, pixels in `bounds`.

    Raises:
        TypeError: If `network` is not a Keras layer or model, or images are integers
            and the bounds are not.
        ValueError: If an argument is out of its range, or, once the shape of the
            images is known, the preset does not fit it or the network returns images
            of another.

    Example:
    >>> lure = keras_traps.layers.LuringInput()
    >>> lure(np.zeros((2, 28, 28, 1), "float32")).shape
    TensorShape([2, 28, 28, 1])

    Reference:
        Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, Section 3.2;
        the architectures are those of the authors' public code.
    """

    def __init__(
        self,
        preset: LurePreset | None = None,
        *,
        width: float = 1.0,
        dropout: float | None = None,
        network: keras.layers.Layer | None = None,
        bounds: Bounds = UNIT,
        **kwargs: Any,
    ) -> None:
        if preset is not None and preset not in get_args(LurePreset):
            raise ValueError(
                "Invalid value for argument `preset`. Expected `None` or one of "
                f"{get_args(LurePreset)}. Received: preset={preset!r}"
            )
        check_number(width, name="width", above=0.0)
        if dropout is not None:
            check_number(dropout, name="dropout", at_least=0.0, below=1.0)
        if network is not None and not isinstance(network, keras.layers.Layer):
            raise TypeError(
                "Invalid value for argument `network`. Expected a Keras layer or "
                f"model. Received: {type(network).__name__}"
            )
        bounds = check_bounds(bounds)
        super().__init__(autocast=False, **kwargs)
        self.preset: LurePreset | None = preset
        self.width = float(width)
        if dropout is None and preset is not None:
            dropout = preset_dropout(preset, width=width)
        self.dropout = None if dropout is None else float(dropout)
        self.network = network
        self.bounds = bounds
        self._network = network

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes the network, and checks that it keeps the images' shape."""
        shape = tuple(size for size in tuple(input_shape)[1:] if size is not None)
        ranks = (2, 3) if self.network is None else (1, 2, 3)
        if len(shape) not in ranks or len(shape) + 1 != len(input_shape):
            raise ValueError(
                "Invalid value for argument `images`. Expected images (batch, height, "
                "width, channels) or (batch, height, width) whose size is known; flat "
                "ones want a `network` of your own. Received: shape "
                f"{tuple(input_shape)}"
            )
        if self._network is None:
            preset = preset_for(shape, self.preset)
            rate = self.dropout
            self._network = preset_network(
                preset,
                shape,
                width=self.width,
                dropout=(
                    preset_dropout(preset, width=self.width) if rate is None else rate
                ),
                dtype=self.dtype_policy,
            )
        try:
            returned = self._network(keras.Input(shape))
        except ValueError as error:
            raise ValueError(
                "Invalid value for argument `network`. Expected one of images of the "
                f"shape {shape}. Received one that refuses them: {error}"
            ) from error
        self._check_returned(returned, shape)
        self.built = True

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns P(x); see the class."""
        if self._network is None:
            raise RuntimeError("The layer was called before it was built.")
        check_floating(images.dtype.name, bounds=self.bounds)
        returned = self._network(to_unit(images, self.bounds), training=training)
        # In a graph a size may be unknown that is right.
        if not returned.shape.is_compatible_with(images.shape):
            self._check_returned(returned, images.shape[1:])
        mapped = tf.cast(returned, tf.float32)
        # The presets end in a sigmoid.
        if self.network is not None:
            mapped = tf.clip_by_value(mapped, 0.0, 1.0)
        return from_unit(mapped, self.bounds)

    def compute_output_shape(
        self, input_shape: Sequence[int | None]
    ) -> tuple[int | None, ...]:
        """Returns the shape of the images."""
        return tuple(input_shape)

    def compute_output_spec(
        self, images: keras.KerasTensor, training: bool | None = None
    ) -> keras.KerasTensor:
        """Returns shape and dtype: float32 whatever the dtype policy."""
        del training
        if self._network is not None:
            # What was built for one size may change another one.
            self._check_returned(self._network(images), images.shape[1:])
        return keras.KerasTensor(images.shape, "float32")

    def until_sigmoid(self) -> keras.Model:
        """Returns a preset's network without the sigmoid that it ends in.

        Returns:
            A model from images to what the sigmoid makes pixels of; it shares the
            weights.

        Raises:
            ValueError: If the network was brought, or is not built.
        """
        if self.network is not None or self._network is None:
            raise ValueError(
                "Expected a layer with the network of a preset, built. Received: "
                f"{self.name!r}"
            )
        return keras.Model(self._network.input, self._network.layers[-1].input)

    def _check_returned(self, returned: Any, shape: Sequence[int | None]) -> None:
        found = getattr(returned, "shape", None)
        if found is not None and tuple(found)[1:] == tuple(shape):
            return
        which = "preset" if self.network is None else "network"
        what = "several tensors" if found is None else str(tuple(found)[1:])
        raise ValueError(
            f"Invalid value for argument `{which}`. Expected a network that returns "
            f"images of the shape that it is given, {tuple(shape)}. Received: one that "
            f"returns {what}"
        )

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor needs to make this layer again."""
        return {
            **super().get_config(),
            "preset": self.preset,
            "width": self.width,
            "dropout": self.dropout,
            "network": keras.saving.serialize_keras_object(self.network),
            "bounds": self.bounds,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a layer of what `get_config` returned."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})


def to_unit(images: tf.Tensor, bounds: Bounds) -> tf.Tensor:
    """Returns pixels of `bounds` from 0 to 1, where they are not: then float32."""
    if bounds == UNIT:
        return images
    low, high = bounds
    return (tf.cast(images, tf.float32) - low) / (high - low)


def from_unit(images: tf.Tensor, bounds: Bounds) -> tf.Tensor:
    """Does the reverse of `to_unit`."""
    if bounds == UNIT:
        return images
    low, high = bounds
    return tf.clip_by_value(images * (high - low) + low, low, high)
