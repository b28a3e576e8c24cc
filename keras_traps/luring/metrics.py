"""How well M∘P does and how far it goes with M, as the luring paper measures it."""

from typing import NamedTuple

from keras_traps._validation import IntArray


class CleanMetrics(NamedTuple):
    """What Table 1 has of one variant.

    Args:
        target: Share of test images that M is right on.
        test: Share that M∘P is right on.
        agree: Share on which both are right, and so agree: the paper's "agree".
        same: Share on which they give one class, right or wrong.
    """

    target: float
    test: float
    agree: float
    same: float


def clean_metrics(
    target: IntArray, augmented: IntArray, labels: IntArray
) -> CleanMetrics:
    """Compares M and M∘P on clean images.

    Args:
        target: The classes that M gives, `(images,)`.
        augmented: Those that M∘P gives, `(images,)`.
        labels: The true classes, `(images,)`.

    Returns:
        The shares.
    """
    right = augmented == labels
    return CleanMetrics(
        target=float((target == labels).mean()),
        test=float(right.mean()),
        agree=float((right & (target == labels)).mean()),
        same=float((target == augmented).mean()),
    )
