"""Which images are attacked, and which class each targeted attack aims at."""

import dataclasses

import keras
import numpy as np

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack, least_likely_targets, random_targets
from keras_traps.datasets import Dataset
from keras_traps.models.inference import predict


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The images that are attacked.

    Args:
        ids: Index in the test set.
        images: `(images, height, width, channels)`, in [0, 1].
        labels: True classes.
        random: A wrong class for each.
        least_likely: The class that C holds least likely.
    """

    ids: IntArray
    images: FloatArray
    labels: IntArray
    random: IntArray
    least_likely: IntArray

    def goals(self, attack: Attack) -> IntArray | None:
        """Returns the targets of an attack, or `None` where it has none."""
        by_rule = {"random": self.random, "least_likely": self.least_likely}
        return by_rule.get(attack.target_rule)


def choose_candidates(
    outputs: FloatArray,
    test: Dataset,
    *,
    num_examples: int,
    seed: int,
    logits: keras.Model | None = None,
) -> Candidates:
    """Chooses the images to attack.

    Args:
        outputs: `(images, classes)`: C on all test images.
        test: The test images.
        num_examples: How many at most.
        seed: Seed of the random targets.
        logits: C up to its logits, as `logits_model` makes it, which is asked for the
            least likely class where several have the lowest output, as of a sure C's
            probabilities, which are 0. Defaults to the first of these classes.

    Returns:
        The candidates; fewer than asked for where C is right on fewer. Fewer candidates
        are the first of more.

    Raises:
        ValueError: If `num_examples` is below 1, or C is right on no image.
    """
    if num_examples < 1:
        raise ValueError(
            "Invalid value for argument `num_examples`. Expected at least 1. "
            f"Received: num_examples={num_examples}"
        )
    ids = np.flatnonzero(outputs.argmax(axis=1) == test.labels)[:num_examples]
    if not len(ids):
        raise ValueError("The classifier is right on none of the test images.")
    labels = test.labels[ids]
    return Candidates(
        ids=ids,
        images=test.images[ids],
        labels=labels,
        random=random_targets(labels, test.num_classes, seed=seed, ids=ids),
        least_likely=_least_likely(outputs[ids], labels, test.images[ids], logits),
    )


def _least_likely(
    outputs: FloatArray,
    labels: IntArray,
    images: FloatArray,
    logits: keras.Model | None,
) -> IntArray:
    targets = least_likely_targets(outputs, labels)
    lowest = outputs.min(axis=1, keepdims=True)
    # Only these: between close outputs rounding may have another order than logits.
    tied = np.flatnonzero((outputs == lowest).sum(axis=1) > 1)
    if logits is not None and len(tied):
        exact = predict(logits, images[tied])
        targets[tied] = least_likely_targets(exact, labels[tied])
    return targets
