"""The rules by which `calibrate` chooses, one function each."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import FloatArray
from keras_traps.layers import QIMDecoder
from keras_traps.models.outputs import Output
from keras_traps.ops.codes import MessageKind
from keras_traps.ops.soft_labels import ROUNDING

# All clean images but for so few are what a rule holds for.
_TAIL = 0.999
# In steps: below it, what distances differ by is the rounding of float32.
_LEAST_SPREAD = 1e-3
# W's largest output, below half of what a sure C's best soft label leads the others by:
# W alone ranges from -0.76 to 1 times it.
LARGEST_CORRELATION = 0.45
# From so many 2x2 blocks of one colour on, messages are not balanced in them.
_FLAT = 0.1


def flat_share(images: FloatArray) -> float:
    """Returns the share of blocks of four pixels, of one channel, that are alike."""
    if images.ndim > 2:
        rows, columns = images.shape[1] // 2, images.shape[2] // 2
        channels = math.prod(images.shape[3:])
        whole = images[:, : 2 * rows, : 2 * columns].reshape(
            len(images), rows, 2, columns, 2, channels
        )
        axes: tuple[int, ...] = (2, 4)
    else:
        blocks = images.shape[1] // 4
        whole = images[:, : 4 * blocks].reshape(len(images), blocks, 4)
        axes = (2,)
    if not whole.size:
        return 0.0
    return float((whole.max(axis=axes) == whole.min(axis=axes)).mean())


def messages_for(flat: float) -> MessageKind:
    """Chooses the kind of messages by the share of blocks of one colour."""
    return "random" if flat >= _FLAT else "balanced"


def distances_by_step(
    decoder: QIMDecoder, images: FloatArray, batch_size: int
) -> FloatArray:
    """Measures what the pixels of each step size add to the distances.

    Returns `(steps, images, num_classes)`, centred, for step weights of 1.
    """
    steps, index = np.asarray(decoder.pixel_steps), step_index(decoder)
    tables = [
        ops.qim_tables(decoder.code, steps, index == i)
        for i in range(len(decoder.steps))
    ]

    @tf.function(
        input_signature=[tf.TensorSpec((None, *images.shape[1:]))], autograph=False
    )
    def distances(batch: tf.Tensor) -> tf.Tensor:
        grey = decoder.grey_levels(batch)
        return tf.stack([ops.qim_distance(grey, table) for table in tables])

    return np.concatenate(
        [
            distances(tf.constant(images[start : start + batch_size])).numpy()
            for start in range(0, len(images), batch_size)
        ],
        axis=1,
    )


def step_index(decoder: QIMDecoder) -> npt.NDArray[np.intp]:
    """Returns which of a decoder's step sizes each pixel has."""
    # Two of them may be alike.
    return ops.draw_steps(decoder.image_shape, decoder.steps, key=decoder.key)


def clean_spread(distances: FloatArray) -> float:
    """Returns the root of the variance over images, averaged over classes."""
    return float(np.sqrt(distances.var(axis=-2, dtype=np.float64).mean()))


def step_weights_for(
    by_step: FloatArray, steps: Sequence[float], small_step_share: float
) -> tuple[float, ...]:
    """Weighs the steps so that each small one adds a share of the largest's spread."""
    spreads = [clean_spread(distances) for distances in by_step]
    largest = int(np.argmax(steps))
    if not spreads[largest] > _LEAST_SPREAD * steps[largest]:
        raise ValueError(
            "Invalid value for argument `images`. Expected images that differ. "
            "Received images that all have the same distances to the messages. Those "
            "of images whose blocks of 2x2 pixels are each of one value, such as "
            'enlarged ones, are all the same unless messages="random".'
        )
    return tuple(
        1.0
        if step == steps[largest] or not spread > 0
        else small_step_share * spreads[largest] / spread
        for step, spread in zip(steps, spreads, strict=True)
    )


def scale_for(distances: FloatArray, a2: float) -> tuple[float, float]:
    """Returns A0 and A1 that let W add little to the soft labels of clean images.

    `distances` is `(images, num_classes)`.
    """
    mean = distances.mean()
    reach = float(np.quantile(np.abs(distances - mean), _TAIL))
    # What each class but the best has of a sure C, and where equation 3 reaches that:
    # tanh(v) with v = u / (1 - u).
    least = ROUNDING / 2 / (distances.shape[1] - 1)
    v = math.atanh(least / a2)
    a0 = -v / (1 + v) / reach
    return a0, a0 * float(mean)


def changed_answers(
    answers: FloatArray, output: Output, correlations: FloatArray, budget: float
) -> float:
    """Returns the share of answers that W changes, and refuses more than `budget`.

    `answers` is what the classifier returns, and `correlations` is W(x).
    """
    soft = ops.soft_labels(answers, from_logits=output == "logits").numpy()
    after = (soft + correlations).argmax(axis=1)
    changed = float((after != answers.argmax(axis=1)).mean())
    if changed > budget:
        raise ValueError(
            "Invalid value for argument `classifier`. Expected one that is sure of the "
            f"images that lie far from the others. W changes {changed:.2%} of the "
            f"answers, more than budget={budget:g} allows."
        )
    return changed
