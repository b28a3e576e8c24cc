"""Input diversity: the model is shown the image a little smaller, padded with zeros.

Reference:
    Xie et al., Improving transferability of adversarial examples with input diversity,
    2019.
"""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps.attacks.base import Batch
from keras_traps.attacks.randomness import Stream, per_example

# By how much smaller, and how many zeros come before, in height and in width. The last
# of the zeros that a size leaves room for is never drawn as an offset in the authors'
# code, whose upper bound is not drawn itself.
_VARIANTS = ((0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1))
_LARGEST_LESS = 2


def draw_variants(batch: Batch, prob: float, steps: int) -> npt.NDArray[np.int32]:
    """Draws which variant of each image the model is shown at each step.

    Args:
        batch: The batch; each of its images has draws of its own.
        prob: The probability of another variant than the image itself.
        steps: How many steps.

    Returns:
        `(batch, steps)`: 0 for the image itself, above for the others: height less 1
        or 2, each as likely, at each place that is drawn in padding it, as likely.

    Raises:
        ValueError: If a side of the images is so short that nothing of them is left.
    """
    shortest = min(batch.images.shape[1:3])
    if shortest <= _LARGEST_LESS:
        raise ValueError(
            "Invalid value for argument `x`. Input diversity makes images smaller by "
            f"{_LARGEST_LESS} pixels: expected longer sides. Received: x with a side "
            f"of {shortest}"
        )

    def draw(generator: np.random.Generator) -> npt.NDArray[np.int32]:
        changed = generator.random(steps) < prob
        by_two = generator.random(steps) < 0.5
        place = generator.integers(2, len(_VARIANTS), steps)
        return np.where(changed, np.where(by_two, place, 1), 0).astype(np.int32)

    return per_example(draw, batch.ids, batch.seed, Stream.DIVERSITY).astype(np.int32)


def show_variants(images: tf.Tensor, variants: tf.Tensor) -> tf.Tensor:
    """Returns each image in the variant that was drawn for it.

    Args:
        images: `(rows, height, width, channels)`, float32.
        variants: `(rows,)`, int32: as `draw_variants` numbers them.

    Returns:
        The same shape: resized by nearest neighbours, then padded with zeros.
    """
    _, height, width, _ = images.shape
    down = tf.gather(_selections(height, [row[:2] for row in _VARIANTS]), variants)
    across = tf.gather(
        _selections(width, [(less, left) for less, _, left in _VARIANTS]), variants
    )
    # Each product picks single values, so that it is exact; its gradient puts them
    # back in their places.
    return tf.einsum("nih,nhwc,njw->nijc", down, images, across)


def _selections(size: int, variants: list[tuple[int, ...]]) -> npt.NDArray[np.float32]:
    """Returns `(variants, size, size)`: which pixel, if any, comes to which place."""
    matrices = np.zeros((len(variants), size, size), np.float32)
    for matrix, (less, before) in zip(matrices, variants, strict=True):
        smaller = size - less
        # As TensorFlow 1 resizes, and in float32 as it does.
        scale = np.float32(size / smaller)
        chosen = np.floor(np.arange(smaller, dtype=np.float32) * scale).astype(int)
        matrix[before + np.arange(smaller), np.minimum(chosen, size - 1)] = 1
    return matrices
