"""Which class a targeted attack aims at."""

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, IntArray, check_count, check_labels
from keras_traps.attacks.randomness import Stream, per_example


def random_targets(
    y: IntArray, num_classes: int, *, seed: int, ids: IntArray
) -> IntArray:
    """Draws a wrong class for each example, each as likely as the others.

    Args:
        y: `(batch,)`: the true classes.
        num_classes: How many classes, at least 2.
        seed: Seed of the draw, not below 0.
        ids: `(batch,)`: which example each is; its draw depends on nothing else.

    Returns:
        `(batch,)`, int64; never the true class.

    Raises:
        ValueError: If there are fewer than two classes, or the seed is below 0.
    """
    check_count("num_classes", num_classes, at_least=2)
    check_count("seed", seed, at_least=0)
    offsets = per_example(
        lambda generator: generator.integers(1, num_classes), ids, seed, Stream.TARGETS
    )
    return (y + offsets.astype(np.int64)) % num_classes


def least_likely_targets(
    outputs: FloatArray, labels: npt.ArrayLike | None = None
) -> IntArray:
    """Returns the class that the model holds least likely.

    Probabilities saturate: of a sure classifier those of many classes are exactly 0,
    of which the first is returned. Logits tell them apart.

    Args:
        outputs: `(batch, num_classes)`: logits or probabilities on clean images.
        labels: `(batch,)`, integers: the true classes, at which no targeted attack
            aims. Without them an example that the model has quite wrong may get its
            true class. Defaults to `None`.

    Returns:
        `(batch,)`, int64; with `labels` never the true class.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the labels do not fit the outputs, or there are fewer than two
            classes to choose from.
    """
    if labels is None:
        return outputs.argmin(axis=1).astype(np.int64)
    count, num_classes = outputs.shape
    check_count("num_classes", num_classes, at_least=2)
    true = check_labels(labels, count, num_classes, name="labels")
    # Not by a large number in its place, which other outputs may reach.
    others = np.arange(num_classes) != true[:, None]
    wrong = outputs[others].reshape(count, num_classes - 1).argmin(axis=1)
    return (wrong + (wrong >= true)).astype(np.int64)


def check_targets(
    y_target: npt.ArrayLike | None,
    labels: IntArray,
    num_classes: int,
    *,
    name: str,
    targeted: bool,
) -> IntArray:
    """Returns the classes that an attack looks at, or says what is wrong with them.

    Args:
        y_target: What the caller passed: `(batch,)`, integers, or `None`.
        labels: `(batch,)`: the true classes.
        num_classes: How many classes.
        name: The attack's name.
        targeted: Whether it aims at a class.

    Returns:
        `(batch,)`, int64: the targets, or the true classes if it aims at none.

    Raises:
        TypeError: If the targets are not integers.
        ValueError: If they are missing, not asked for, out of range or a true class.
    """
    if not targeted:
        if y_target is not None:
            raise ValueError(
                f"Invalid value for argument `y_target`. {name} is untargeted and "
                "takes none."
            )
        return labels
    if y_target is None:
        raise ValueError(
            f"Invalid value for argument `y_target`. {name} is targeted: expected one "
            "class per example. Received: None"
        )
    targets = check_labels(y_target, len(labels), num_classes, name="y_target")
    if (targets == labels).any():
        raise ValueError(
            "Invalid value for argument `y_target`. Expected targets other than the "
            "true class. Received the true class at index "
            f"{int(np.argmax(targets == labels))}."
        )
    return targets
