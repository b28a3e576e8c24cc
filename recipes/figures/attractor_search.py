"""The nearest attractor of an image."""

import dataclasses
from typing import Literal, NamedTuple, get_args

import keras
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import FloatArray, IntArray, check_images
from keras_traps.attractors.analysis.batches import map_batches
from keras_traps.attractors.injection import decoder_of
from keras_traps.layers import QIMDecoder

Ends = Literal["cut", "inside", "beyond"]
"""What becomes of a pixel whose nearest codeword lies outside the pixel range."""

Scale = float | Literal["nearest", "whole"]
"""Which pixels hold the message: see `AttractorSearch`."""


class NearestTensors(NamedTuple):
    """`NearestAttractors` inside a graph; `ways` are x_w - x, `(batch, pixels)`."""

    ways: tf.Tensor
    classes: tf.Tensor
    steps: tf.Tensor


@dataclasses.dataclass(frozen=True)
class NearestAttractors:
    """The nearest attractor of each image.

    Args:
        images: x_w, the shape of the images, float32.
        classes: `(images,)`, int64: t, whose message x_w holds.
        steps: `(images,)`, float32: the step size of the pixels that hold it; 0 where
            all do.
        distances: `(images,)`, float32: L2 distance of x_w to x, pixels in [0, 1].
    """

    images: FloatArray
    classes: IntArray
    steps: FloatArray
    distances: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttractorSearch:
    """What counts as an attractor, and so which is the nearest.

    Args:
        scale: A step size of the decoder: its pixels hold the message, the others
            stay. `"whole"`: all pixels hold it. `"nearest"`: the nearest of all
            messages on any one step size. Defaults to `"nearest"`.
        ends: The decoder's codewords go on outside the pixel range. `"cut"`: a pixel
            whose nearest codeword lies outside goes to that end of the range, where
            its correlation is highest within the range. `"inside"`: it goes to its
            nearest codeword in the range, as `keras_traps.ops.qim_embed` does, even
            where the correlation first falls on the way. `"beyond"`: it leaves the
            range; for comparison, no image. Defaults to `"cut"`.

    Raises:
        ValueError: If `ends` is unknown, or `scale` is another word.
    """

    scale: Scale = "nearest"
    ends: Ends = "cut"

    def __post_init__(self) -> None:
        """Checks the words."""
        if self.ends not in get_args(Ends):
            raise ValueError(
                f"Invalid value for argument `ends`. Expected one of {get_args(Ends)}. "
                f"Received: ends={self.ends!r}"
            )
        if isinstance(self.scale, str) and self.scale not in ("nearest", "whole"):
            raise ValueError(
                "Invalid value for argument `scale`. Expected a step size, 'nearest' "
                f"or 'whole'. Received: scale={self.scale!r}"
            )

    def run(self, decoder: QIMDecoder, images: tf.Tensor) -> NearestTensors:
        """Finds the nearest attractors inside a graph.

        One message is looked at after the other, so that the memory does not grow
        with their number.

        Args:
            decoder: A built decoder.
            images: `(batch, ...)`, float32, pixels in [0, 1].

        Returns:
            The ways there, the classes, and the step sizes.
        """
        masks, names = self._masks(decoder)
        grey = tf.reshape(images, (-1, masks.shape[1])) * decoder.pixel_scale
        steps = tf.convert_to_tensor(decoder.pixel_steps)
        bits = tf.convert_to_tensor(decoder.message_bits)

        def squares(message: tf.Tensor) -> tf.Tensor:
            way = self._embed(grey, message, steps) - grey
            return tf.matmul(way * way, masks, transpose_b=True)

        # (messages, batch, scales)
        found = tf.map_fn(squares, bits, fn_output_signature=tf.float32)
        best_message = tf.argmin(found, axis=0)
        scale = tf.argmin(tf.reduce_min(found, axis=0), axis=1)
        classes = tf.gather(best_message, scale, axis=1, batch_dims=1)
        ends = self._embed(grey, tf.gather(bits, classes), steps)
        ways = (ends - grey) * tf.gather(masks, scale) / decoder.pixel_scale
        return NearestTensors(ways, classes, tf.gather(names, scale))

    def _masks(self, decoder: QIMDecoder) -> tuple[tf.Tensor, tf.Tensor]:
        """Which pixels may move, a row per scale to be searched, and their steps."""
        steps = tf.convert_to_tensor(decoder.pixel_steps)
        if self.scale == "whole":
            return tf.ones_like(steps)[None], tf.zeros(1)
        wanted = sorted(set(decoder.steps))
        if self.scale != "nearest":
            if self.scale not in wanted:
                raise ValueError(
                    "Invalid value for argument `scale`. Expected a step size of the "
                    f"decoder, one of {tuple(wanted)}. Received: scale={self.scale}"
                )
            wanted = [float(self.scale)]
        names = tf.constant(wanted, tf.float32)
        return tf.cast(tf.equal(steps, names[:, None]), tf.float32), names

    def _embed(
        self, grey: tf.Tensor, message: tf.Tensor, steps: tf.Tensor
    ) -> tf.Tensor:
        if self.ends == "inside":
            return ops.qim_embed(grey, message, steps).image
        # The op keeps to [0, 255]. Moved up by a period and shrunk, every pixel lies
        # nearer to its codeword than to an end: the codebook is as good as endless.
        period = 2.0 * steps
        shrink = (255.0 + 2.0 * period) / 255.0
        moved = ops.qim_embed((grey + period) / shrink, message, steps / shrink).image
        free = moved * shrink - period
        return free if self.ends == "beyond" else tf.clip_by_value(free, 0.0, 255.0)


DEFAULT_SEARCH = AttractorSearch()
"""The nearest of all messages on any one step size, cut to the pixel range."""


def nearest_attractors(
    trapped: keras.Model | QIMDecoder,
    images: npt.ArrayLike,
    *,
    search: AttractorSearch = DEFAULT_SEARCH,
    batch_size: int = 256,
) -> NearestAttractors:
    """Finds the nearest attractor x_w of each image, over all messages.

    Args:
        trapped: A trapped model from `inject`, or its decoder.
        images: `(images, ...)`, floating point, pixels in [0, 1].
        search: What counts as an attractor. Defaults to `AttractorSearch()`.
        batch_size: How many images at once. Defaults to `256`.

    Returns:
        The attractors.

    Raises:
        TypeError: If images are integers.
        ValueError: If the model has no QIM decoder, there are no images, they do not
            fit the decoder, a pixel is not in [0, 1], or the decoder does not have the
            step size asked for.

    Reference:
        Zhang, Chang, Lee, Section VI-C2.
    """
    decoder = trapped if isinstance(trapped, QIMDecoder) else decoder_of(trapped)
    array = check_images(images, decoder.image_shape)

    def find(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = search.run(decoder, batch)
        attractors = batch + tf.reshape(found.ways, tf.shape(batch))
        if search.ends != "beyond":
            # The rounding of way and sum may leave the range by a last bit.
            attractors = tf.clip_by_value(attractors, 0.0, 1.0)
        distances = tf.norm(found.ways, axis=1)
        return attractors, found.classes, found.steps, distances

    return NearestAttractors(*map_batches(find, array, batch_size=batch_size))
