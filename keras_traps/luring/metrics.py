"""How well M∘P does and how far it goes with M, as the luring paper measures it.

Everything here is counted from answers: classes, `(images,)`, integers; arrays that are
not of one length are a `ValueError`. A share of nothing, such as the detection rate of
an attack that never succeeds, is no number: the `value` of its `Rate` is `None`. What M
and what M∘P answers is given by name: nothing else tells the two apart.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, IntArray
from keras_traps.rates import Rate


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
    *, target: IntArray, augmented: IntArray, labels: IntArray
) -> CleanMetrics:
    """Compares M and M∘P on clean images.

    Args:
        target: The classes that M gives, `(images,)`.
        augmented: Those that M∘P gives, `(images,)`.
        labels: The true classes, `(images,)`.

    Returns:
        The shares.

    Raises:
        ValueError: If the arrays are not of one length.
    """
    _check_lengths(target=target, augmented=augmented, labels=labels)
    target, augmented, labels = map(np.asarray, (target, augmented, labels))
    right = augmented == labels
    return CleanMetrics(
        target=float((target == labels).mean()),
        test=float(right.mean()),
        agree=float((right & (target == labels)).mean()),
        same=float((target == augmented).mean()),
    )


class LuringMetrics(NamedTuple):
    """What the paper measures of an attack's images.

    Args:
        ac_mop: AC of M∘P: images that M∘P is still right on.
        ac_m: AC of M: images that M is still right on.
        dac: DAC, Equation 4: images that M is right on, or on which M and M∘P differ.
        dr: DR, Equation 2: of the images that fool M∘P, those on which M differs.
        adq: Adq, Equation 3: of the images that fool M∘P, those that M is right on.
    """

    ac_mop: Rate
    ac_m: Rate
    dac: Rate
    dr: Rate
    adq: Rate


def luring_metrics(
    *, augmented: IntArray, target: IntArray, labels: IntArray
) -> LuringMetrics:
    """Counts all that the paper measures of an attack's images.

    Args:
        augmented: What M∘P answers to each attacked image, `(images,)`.
        target: What M answers, `(images,)`.
        labels: The true classes, `(images,)`.

    Returns:
        The rates.

    Raises:
        ValueError: If the arrays are not of one length.
    """
    answers = {"augmented": augmented, "target": target, "labels": labels}
    # First, for it names the argument whose length is another.
    dac = detection_adversarial_accuracy(**answers)
    return LuringMetrics(
        ac_mop=adversarial_accuracy(augmented, labels),
        ac_m=adversarial_accuracy(target, labels),
        dac=dac,
        dr=detection_rate(**answers),
        adq=adequation_rate(**answers),
    )


def adversarial_accuracy(answers: IntArray, labels: IntArray) -> Rate:
    """AC: the share of attacked images that a model is still right on.

    Args:
        answers: What the model answers to each, `(images,)`.
        labels: The true classes, `(images,)`.

    Returns:
        The rate, of all images.
    """
    _check_lengths(answers=answers, labels=labels)
    return _share(np.equal(answers, labels))


def detection_adversarial_accuracy(
    *, augmented: IntArray, target: IntArray, labels: IntArray
) -> Rate:
    """DAC: the share of attacked images that are noticed, or that M is right on.

    Equation 4: 1 minus the share with M∘P(x') = M(x') ≠ y.

    Args:
        augmented: What M∘P answers to each, `(images,)`.
        target: What M answers, `(images,)`.
        labels: The true classes, `(images,)`.

    Returns:
        The rate, of all images.
    """
    _check_lengths(augmented=augmented, target=target, labels=labels)
    return _share(defended(augmented=augmented, target=target, labels=labels))


def defended(
    *, augmented: IntArray, target: IntArray, labels: IntArray
) -> npt.NDArray[np.bool_]:
    """Says of each attacked image what DAC counts."""
    return np.equal(target, labels) | np.not_equal(augmented, target)


def detection_rate(*, augmented: IntArray, target: IntArray, labels: IntArray) -> Rate:
    """DR: of the images that fool M∘P, the share on which M does not agree.

    Equation 2: of those with M∘P(x') ≠ y, those with M∘P(x') ≠ M(x').

    Args:
        augmented: What M∘P answers to each, `(images,)`.
        target: What M answers, `(images,)`.
        labels: The true classes, `(images,)`.

    Returns:
        The rate, of the images that fool M∘P; its value is `None` where none does.
    """
    _check_lengths(augmented=augmented, target=target, labels=labels)
    return _share(np.not_equal(augmented, target)[np.not_equal(augmented, labels)])


def adequation_rate(*, augmented: IntArray, target: IntArray, labels: IntArray) -> Rate:
    """Adq: of the images that fool M∘P, the share that M is right on.

    Equation 3: of those with M∘P(x') ≠ y, those with M(x') = y.

    Args:
        augmented: What M∘P answers to each, `(images,)`.
        target: What M answers, `(images,)`.
        labels: The true classes, `(images,)`.

    Returns:
        The rate, of the images that fool M∘P; its value is `None` where none does.
    """
    _check_lengths(augmented=augmented, target=target, labels=labels)
    return _share(np.equal(target, labels)[np.not_equal(augmented, labels)])


def l0_distortion(clean: FloatArray, attacked: FloatArray) -> IntArray:
    """Counts the values that an attack changed, as Figure 5 shows them.

    Args:
        clean: `(images, height, width, channels)`.
        attacked: The same shape.

    Returns:
        `(images,)`, int64.

    Raises:
        ValueError: If the shapes differ.
    """
    if clean.shape != attacked.shape:
        raise ValueError(
            "Invalid value for argument `attacked`. Expected images of the shape of "
            f"the clean ones, {clean.shape}. Received: {attacked.shape}"
        )
    return (clean != attacked).reshape(len(clean), -1).sum(axis=1).astype(np.int64)


def _share(chosen: npt.NDArray[np.bool_]) -> Rate:
    return Rate(int(chosen.sum()), len(chosen))


def _check_lengths(labels: IntArray, **answers: IntArray) -> None:
    for name, values in answers.items():
        if np.shape(values) != np.shape(labels) or np.ndim(values) != 1:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected one class for each of "
                f"the {np.shape(labels)} labels. Received: shape {np.shape(values)}"
            )
