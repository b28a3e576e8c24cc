"""The layer that makes a classifier learn from noisy images."""

from typing import Any

import keras
import tensorflow as tf

from keras_traps._checks import check_floating, check_number


@keras.saving.register_keras_serializable(package="keras_traps")
class RandomNoise(keras.layers.Layer):
    """Adds Gaussian noise of a random strength to each image, in training alone.

    Every image draws its own standard deviation, so that those that are nearly clean
    keep their share of what batch normalisation sees; `keras.layers.GaussianNoise` has
    one for all. The replicas of a `tf.distribute.MirroredStrategy` draw alike.

    Args:
        stddev: The largest standard deviation, above 0, on the pixel scale [0, 1]. Each
            image's is uniform between 0 and this.
        seed: Of strengths and noise. Defaults to `None`, a random one.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        inputs: Images `(batch, ...)` in [0, 1], floating point.
        training: Whether to add noise.

    Returns:
        The shape of `inputs`, in the layer's compute dtype; with noise in [0, 1].

    Raises:
        ValueError: If `stddev` is not a number above 0, or `seed` is no seed of Keras'.
        TypeError: If images are not floating point.

    Example:
    >>> keras_traps.layers.RandomNoise(0.2)(images, training=True)

    Reference:
        Zantedeschi, Nicolae, Rawat, Efficient defenses against adversarial attacks,
        2017, who draw one strength for all.
    """

    def __init__(self, stddev: float, seed: int | None = None, **kwargs: Any) -> None:
        check_number(stddev, name="stddev", above=0)
        super().__init__(**kwargs)
        self.stddev = float(stddev)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the noisy images; see the class."""
        check_floating(inputs.dtype.name)
        if not training:
            return inputs
        shape = keras.ops.shape(inputs)
        strength = keras.random.uniform(
            (shape[0], *(1 for _ in shape[1:])),
            maxval=self.stddev,
            dtype=inputs.dtype,
            seed=self.generator,
        )
        noise = keras.random.normal(shape, dtype=inputs.dtype, seed=self.generator)
        return keras.ops.clip(inputs + strength * noise, 0.0, 1.0)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor needs to make this layer again."""
        return {**super().get_config(), "stddev": self.stddev, "seed": self.seed}
