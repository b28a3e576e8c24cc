"""The watermark decoder as a layer."""

import hashlib
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import check_floating, check_number
from keras_traps.ops.codes import MessageKind


@keras.saving.register_keras_serializable(package="keras_traps")
class QIMDecoder(keras.layers.Layer):
    """Correlates images with one watermark message per class.

    Messages, step sizes and pixel weights are drawn from `seed` when the layer is
    built, held as non-trainable weights and saved with the model. They are the
    defence's secret, and so is the seed.

    The layer computes in float32 whatever the dtype policy: half precision cannot tell
    the codewords of a step of 3 grey levels apart. W sees the pixels as they come, not
    rounded to whole grey levels. Once it is built, `image_shape` is the shape of one
    image.

    Args:
        num_classes: How many classes and so messages, at least 2.
        seed: Seed of messages and steps; the same on every machine. Defaults to `0`.
        messages: `"balanced"` or `"random"`, see `keras_traps.ops.draw_messages`.
            Defaults to `"balanced"`.
        steps: Step sizes in grey levels, each above 0; every pixel has one of them.
            Defaults to `(3.0, 128.0)`, the paper's.
        step_weights: The weight of the pixels of each step size, not below 0 and not
            all 0. Defaults to 1 for each.
        a0: Scale of the distances in equation 3, below 0 where a watermarked image is
            to have a high correlation. Defaults to `-1.0`.
        a1: Shift in equation 3. Defaults to `0.0`.
        a2: The largest correlation. Defaults to `1.0`.
        pixel_scale: Grey levels in a pixel value of 1. Defaults to `255.0`, for images
            in [0, 1].
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        images: `(batch, ...)`, floating point, pixels in [0, 1]; images of any shape.

    Returns:
        `(batch, num_classes)`, float32: w = S(Q(x, m)), one per message.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If images are integers.

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

    def __init__(
        self,
        num_classes: int,
        *,
        seed: int = 0,
        messages: MessageKind = "balanced",
        steps: Sequence[float] = (3.0, 128.0),
        step_weights: Sequence[float] | None = None,
        a0: float = -1.0,
        a1: float = 0.0,
        a2: float = 1.0,
        pixel_scale: float = 255.0,
        **kwargs: Any,
    ) -> None:
        step_weights = [1.0] * len(steps) if step_weights is None else step_weights
        _check_steps(steps, step_weights)
        for name, value in (("a0", a0), ("a1", a1), ("a2", a2)):
            check_number(value, name=name)
        check_number(pixel_scale, name="pixel_scale", above=0.0)
        # Draws one block, so that a bad kind, seed or count is refused here.
        ops.draw_messages((1,), num_classes, seed=seed, kind=messages)
        super().__init__(trainable=False, autocast=False, **_without_trainable(kwargs))
        # NumPy's integers could not be written to a file.
        self.num_classes = int(num_classes)
        self.seed = int(seed)
        self.messages = messages
        self.steps = tuple(float(step) for step in steps)
        self.step_weights = tuple(float(weight) for weight in step_weights)
        self.a0 = float(a0)
        self.a1 = float(a1)
        self.a2 = float(a2)
        self.pixel_scale = float(pixel_scale)

    @classmethod
    def from_seed(
        cls, seed: int, *, num_classes: int, shape: Sequence[int], **kwargs: Any
    ) -> Self:
        """Makes a decoder and draws its secrets at once.

        Args:
            seed: Seed of messages and steps.
            num_classes: How many classes, at least 2.
            shape: Shape of one image, such as `(28, 28, 1)`.
            **kwargs: Passed on to the constructor.

        Returns:
            A built layer; the same weights on every machine.
        """
        decoder = cls(num_classes, seed=seed, **kwargs)
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
        index = ops.draw_steps(shape, self.steps, seed=self.seed)
        self.message_bits = self._add_constant(
            "message_bits",
            ops.draw_messages(
                shape, self.num_classes, seed=self.seed, kind=self.messages
            ),
        )
        self.pixel_steps = self._add_constant(
            "pixel_steps", np.asarray(self.steps, np.float32)[index]
        )
        self.pixel_weights = self._add_constant(
            "pixel_weights",
            np.asarray(self.step_weights, np.float32)[index],
        )

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the correlations; see the class."""
        return ops.qim_decode(
            self._grey_levels(images),
            *self._secrets(),
            *(tf.constant(a, tf.float32) for a in (self.a0, self.a1, self.a2)),
        )

    def distances(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the weighted distances Q(x, m) before they become correlations.

        Args:
            images: `(batch, ...)`, floating point, pixels in [0, 1].

        Returns:
            `(batch, num_classes)`, float32, in weighted grey levels.
        """
        return ops.qim_distance(self._grey_levels(images), *self._secrets())

    def attractors(self, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Returns the nearest watermarked images x_w.

        Args:
            images: `(batch, ...)`, floating point, pixels in [0, 1].
            classes: `(batch,)`, integer: whose message each is to hold.

        Returns:
            Images of the same shape, float32, pixels in [0, 1].
        """
        bits, steps, _ = self._secrets()
        embedding = ops.qim_embed(
            self._grey_levels(images), tf.gather(bits, classes), steps
        )
        return embedding.image / self.pixel_scale

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that the correlations depend on, as hexadecimal."""
        digest = hashlib.sha256()
        for secret in (self.message_bits, self.pixel_steps, self.pixel_weights):
            digest.update(keras.ops.convert_to_numpy(secret).tobytes())
        constants = (self.a0, self.a1, self.a2, self.pixel_scale)
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
            "seed": self.seed,
            "messages": self.messages,
            "steps": self.steps,
            "step_weights": self.step_weights,
            "a0": self.a0,
            "a1": self.a1,
            "a2": self.a2,
            "pixel_scale": self.pixel_scale,
        }

    def _add_constant(self, name: str, value: np.ndarray) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=value.shape,
            dtype=value.dtype.name,
            initializer=lambda *_, **__: keras.ops.convert_to_tensor(value),
            trainable=False,
            autocast=False,
        )

    def _secrets(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return (
            tf.convert_to_tensor(self.message_bits),
            tf.convert_to_tensor(self.pixel_steps),
            tf.convert_to_tensor(self.pixel_weights),
        )

    def _grey_levels(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        check_floating(images.dtype.name)
        return tf.cast(images, tf.float32) * self.pixel_scale


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
