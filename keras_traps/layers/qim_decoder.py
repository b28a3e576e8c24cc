"""The watermark decoder as a layer."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import (
    UNIT,
    Bounds,
    KnowsBounds,
    check_bounds,
    check_floating,
    check_number,
)
from keras_traps.ops.codes import Key, Layout, MessageKind
from keras_traps.ops.columns import Order, signs_of

# The names of weights: what is secret beside the pattern, and what the op needs.
_SECRETS = (*Order._fields, "pixel_steps", "pixel_weights")
_OF_TABLES = ("scale", "kernel")


@keras.saving.register_keras_serializable(package="keras_traps")
class QIMDecoder(KnowsBounds, keras.layers.Layer):
    """Correlates images with one watermark message per class.

    Messages and step sizes are drawn from `key` when the layer is built, held as
    non-trainable weights and saved with the model. They are the defence's secret, and
    so is the key, which is saved nowhere: a layer from a config has a new one, until it
    is given the weights of the old.

    The layer computes in float32 whatever the dtype policy: half precision cannot tell
    the codewords of a step of 3 grey levels apart. W sees the pixels as they come, not
    rounded to whole grey levels. An image with a pixel that lies further outside of
    `bounds` than half their distance belongs to another model: its correlations are
    NaN. Once it is built, `image_shape` is the shape of one image.

    Args:
        num_classes: How many classes and so messages, at least 2.
        key: The secret that messages and steps are drawn from, a `keras_traps.Key` or
            at least 16 bytes. Defaults to `None`: a new one of the system's randomness.
        messages: `"balanced"` or `"random"`, see `keras_traps.ops.draw_code`. Defaults
            to `"balanced"`.
        steps: Step sizes in grey levels, each above 0; every pixel has one of them.
            Defaults to `(3.0, 128.0)`, the paper's.
        step_weights: The weight of the pixels of each step size, not below 0 and not
            all 0. Defaults to 1 for each.
        a0: Scale of the distances in equation 3, below 0 where a watermarked image is
            to have a high correlation. Defaults to `-1.0`.
        a1: Shift in equation 3. Defaults to `0.0`.
        a2: The largest correlation. Defaults to `1.0`.
        bounds: The least and the largest value of a pixel, the grey levels 0 and 255.
            Defaults to `(0.0, 1.0)`.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        images: `(batch, ...)`, pixels in `bounds`; images of any shape.

    Returns:
        `(batch, num_classes)`, float32: w = S(Q(x, m)), one per message.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If images are integers and the bounds are not, or are at most 2
            apart.

    Example:
    >>> decoder = keras_traps.layers.QIMDecoder.from_seed(
    ...     7, num_classes=10, shape=(28, 28, 1)
    ... )
    >>> decoder(images).shape
    TensorShape([32, 10])

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section V-E.
    """

    pattern: keras.Variable
    strips: keras.Variable
    places: keras.Variable
    rows: keras.Variable
    pixel_steps: keras.Variable
    pixel_weights: keras.Variable
    scale: keras.Variable
    kernel: keras.Variable
    shift: keras.Variable

    def __init__(
        self,
        num_classes: int,
        *,
        key: Key | bytes | None = None,
        messages: MessageKind = "balanced",
        steps: Sequence[float] = (3.0, 128.0),
        step_weights: Sequence[float] | None = None,
        a0: float = -1.0,
        a1: float = 0.0,
        a2: float = 1.0,
        bounds: Bounds = UNIT,
        **kwargs: Any,
    ) -> None:
        step_weights = [1.0] * len(steps) if step_weights is None else step_weights
        _check_steps(steps, step_weights)
        for name, value in (("a0", a0), ("a1", a1), ("a2", a2)):
            check_number(value, name=name)
        bounds = check_bounds(bounds)
        key = Key.of(key)
        # Draws one block, so that bad messages or a bad count are refused here.
        ops.draw_code((1,), num_classes, key=key, messages=messages)
        super().__init__(trainable=False, autocast=False, **_without_trainable(kwargs))
        # NumPy's integers could not be written to a file.
        self.num_classes = int(num_classes)
        self.key = key
        self.messages = messages
        self.steps = tuple(float(step) for step in steps)
        self.step_weights = tuple(float(weight) for weight in step_weights)
        self.a0 = float(a0)
        self.a1 = float(a1)
        self.a2 = float(a2)
        self.bounds = bounds

    @classmethod
    def from_seed(
        cls, seed: int, *, num_classes: int, shape: Sequence[int], **kwargs: Any
    ) -> Self:
        """Makes a decoder of a public key, and draws its messages at once.

        Args:
            seed: See `keras_traps.Key.from_seed`: who knows it knows the watermark.
            num_classes: How many classes, at least 2.
            shape: Shape of one image, such as `(28, 28, 1)`.
            **kwargs: Passed on to the constructor.

        Returns:
            A built layer; the same weights on every machine.
        """
        decoder = cls(num_classes, key=Key.from_seed(seed), **kwargs)
        decoder.build((None, *shape))
        return decoder

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Draws messages, step sizes and weights for images of this shape."""
        sizes = tuple(input_shape)[1:]
        shape = tuple(size for size in sizes if size is not None)
        if not shape or shape != sizes:
            raise ValueError(
                "Invalid value for argument `input_shape`. Expected a batch of images "
                f"whose size is known. Received: input_shape={tuple(input_shape)}"
            )
        self.image_shape = shape
        index = ops.draw_steps(shape, self.steps, key=self.key)
        code = ops.draw_code(
            shape, self.num_classes, key=self.key, messages=self.messages
        )
        for name in ("pattern", *Order._fields):
            setattr(self, name, self._add_constant(name, getattr(code, name)))
        self.pixel_steps = self._add_constant(
            "pixel_steps", np.asarray(self.steps, np.float32)[index]
        )
        self.pixel_weights = self._add_constant(
            "pixel_weights",
            np.asarray(self.step_weights, np.float32)[index],
        )
        # What follows from these, and is not saved.
        for name, value in self._derived().items():
            setattr(self, name, self._add_constant(name, value))

    @property
    def code(self) -> ops.Code:
        """The messages."""
        # Also while a function is traced.
        with tf.init_scope():
            orders = [np.asarray(getattr(self, name)) for name in Order._fields]
            return ops.Code(self.image_shape, np.asarray(self.pattern), *orders)

    @property
    def message_bits(self) -> tf.Tensor:
        """The messages written out, `(num_classes, pixels)`, uint8, bits 0 and 1."""
        return tf.cast(self._signs(tf.range(self.num_classes)) < 0, tf.uint8)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the correlations; see the class."""
        images = self._as_float(images)
        correlations = ops.qim_decode(
            self._from_black(images),
            self._tables(),
            tf.constant(self.a0, tf.float32),
            tf.convert_to_tensor(self.shift),
            tf.constant(self.a2, tf.float32),
        )
        low, high = self.bounds
        slack = (high - low) / 2
        pixels = range(1, images.shape.rank)
        least, largest = (
            reduce(images, axis=pixels, keepdims=False)
            for reduce in (tf.reduce_min, tf.reduce_max)
        )
        foreign = tf.logical_or(least < low - slack, largest > high + slack)
        return tf.where(foreign[:, None], np.float32(np.nan), correlations)

    def distances(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the centred distances Q(x, m) before they become correlations.

        Args:
            images: `(batch, ...)`, pixels in `bounds`.

        Returns:
            `(batch, num_classes)`, float32, in weighted grey levels.
        """
        return ops.qim_distance(self._from_black(images), self._tables())

    def attractors(self, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Returns the nearest watermarked images x_w.

        Args:
            images: `(batch, ...)`, pixels in `bounds`.
            classes: `(batch,)`, integer: whose message each is to hold.

        Returns:
            Images of the same shape, float32, pixels in `bounds`.
        """
        bits = 0.5 - 0.5 * self._signs(classes)
        grey = self.grey_levels(images)
        steps = tf.convert_to_tensor(self.pixel_steps)
        embedding = ops.qim_embed(grey, bits, steps)
        return embedding.image / self._unit + self.bounds[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that the correlations depend on, as hexadecimal."""
        digest = hashlib.sha256()
        for name in ("pattern", *_SECRETS):
            digest.update(np.asarray(getattr(self, name)).tobytes())
        constants = (self.a0, self.a1, self.a2, *self.bounds)
        digest.update(np.asarray(constants, "<f8").tobytes())
        return digest.hexdigest()

    def compute_output_shape(
        self, input_shape: Sequence[int | None]
    ) -> tuple[int | None, int]:
        """Returns `(batch, num_classes)`."""
        return (input_shape[0], self.num_classes)

    def compute_output_spec(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """Returns shape and dtype: float32 whatever the dtype policy."""
        return keras.KerasTensor(self.compute_output_shape(images.shape), "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor needs to make this layer again."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "messages": self.messages,
            "steps": self.steps,
            "step_weights": self.step_weights,
            "a0": self.a0,
            "a1": self.a1,
            "a2": self.a2,
            "bounds": self.bounds,
        }

    def save_own_variables(self, store: dict[str, Any]) -> None:
        """Writes the secrets, of the messages' pattern one bit for each pixel."""
        for name in _SECRETS:
            store[name] = np.asarray(getattr(self, name))
        store["is_negative"] = np.packbits(np.asarray(self.pattern) < 0)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Reads what `save_own_variables` wrote."""
        pixels = math.prod(self.image_shape)
        saved = {name: np.asarray(store[name]) for name in _SECRETS}
        found = len(saved["rows"]), len(saved["pixel_steps"])
        if found != (self.num_classes, pixels):
            raise ValueError(
                f"The secrets of {self.name!r} do not fit. Expected {self.num_classes} "
                f"messages of {pixels} pixels. Received: {found[0]} of {found[1]}"
            )
        is_negative = np.unpackbits(np.asarray(store["is_negative"]), count=pixels)
        self.pattern.assign(1 - 2 * is_negative.astype(np.int8))
        for name, value in saved.items():
            getattr(self, name).assign(value)
        for name, value in self._derived().items():
            getattr(self, name).assign(value)

    def _add_constant(self, name: str, value: np.ndarray) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=value.shape,
            dtype=value.dtype.name,
            initializer=lambda *_, **__: keras.ops.convert_to_tensor(value),
            trainable=False,
            autocast=False,
        )

    def _derived(self) -> dict[str, npt.NDArray[np.float32]]:
        """Computes what `call` needs from the secrets, for pixels in `bounds`."""
        steps, weights = (
            np.asarray(held, np.float64)
            for held in (self.pixel_steps, self.pixel_weights)
        )
        tables = ops.qim_tables(self.code, steps / self._unit, weights * self._unit)
        # Of centred distances, in float64 from what A1 is for the distances of eq. 3.
        shift = ops.centred_shift(self.a0, self.a1, steps, weights)
        held = {name: getattr(tables, name).numpy() for name in _OF_TABLES}
        return {**held, "shift": np.asarray(shift, np.float32)}

    def _tables(self) -> ops.QIMTables:
        orders = (tf.convert_to_tensor(getattr(self, name)) for name in Order._fields)
        held = {name: tf.convert_to_tensor(getattr(self, name)) for name in _OF_TABLES}
        layout = Layout.of(self.image_shape, self.num_classes)
        return ops.QIMTables(
            layout, len(self.kernel.shape) == 2, order=Order(*orders), **held
        )

    def _signs(self, classes: tf.Tensor) -> tf.Tensor:
        tables = self._tables()
        signs = signs_of(classes, tables.order, tables.layout)
        return signs * tf.cast(self.pattern, tf.float32)

    @property
    def _unit(self) -> float:
        """How many grey levels a pixel's unit is."""
        low, high = self.bounds
        return 255.0 / (high - low)

    def _from_black(self, images: tf.Tensor) -> tf.Tensor:
        """Returns pixels in their own unit, from 0."""
        images = self._as_float(images)
        return images - self.bounds[0] if self.bounds[0] else images

    def grey_levels(self, images: tf.Tensor) -> tf.Tensor:
        """Returns pixels as grey levels.

        Args:
            images: `(batch, ...)`, pixels in `bounds`.

        Returns:
            Images of the same shape, float32, from 0 to 255.
        """
        return self._from_black(images) * self._unit

    def _as_float(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        check_floating(images.dtype.name, bounds=self.bounds)
        return tf.cast(images, tf.float32)


def _without_trainable(kwargs: dict[str, Any]) -> dict[str, Any]:
    # A saved config carries it; a decoder is never trainable.
    return {name: value for name, value in kwargs.items() if name != "trainable"}


def _check_steps(steps: Sequence[float], step_weights: Sequence[float]) -> None:
    if len(steps) == 0:
        raise ValueError(
            "Invalid value for argument `steps`. Expected at least one step size. "
            f"Received: steps={tuple(steps)}"
        )
    for step in steps:
        check_number(step, name="steps", above=0.0)
    if len(step_weights) != len(steps):
        raise ValueError(
            "Invalid value for argument `step_weights`. Expected one weight per step "
            f"size, {len(steps)}. Received: step_weights={tuple(step_weights)}"
        )
    for weight in step_weights:
        check_number(weight, name="step_weights", at_least=0.0)
    if not any(step_weights):
        raise ValueError(
            "Invalid value for argument `step_weights`. Expected at least one weight "
            f"above 0. Received: step_weights={tuple(step_weights)}"
        )
