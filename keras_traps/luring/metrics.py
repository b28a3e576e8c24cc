"""How well M∘P does and how far it goes with M, as the luring paper measures it.

Everything here is counted from answers: classes, `(images,)`, integers; arrays that are
not of one length are a `ValueError`. A share of nothing, such as the detection rate of
an attack that never succeeds, is no number: the `value` of its `Rate` is `None`. What M
and what M∘P answers is given by name: nothing else tells the two apart.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_traps._checks import IntArray
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
        dac: DAC, Equation 4: images that M is right on, or on which M and M∘P differ;
            1 minus the share with M∘P(x') = M(x') ≠ y.
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
    _check_lengths(augmented=augmented, target=target, labels=labels)
    fooled, right = np.not_equal(augmented, labels), np.equal(target, labels)
    apart = np.not_equal(augmented, target)
    dac = defended(augmented=augmented, target=target, labels=labels)
    return LuringMetrics(
        ac_mop=_share(~fooled),
        ac_m=_share(right),
        dac=_share(dac),
        dr=_share(apart[fooled]),
        adq=_share(right[fooled]),
    )


def defended(
    *, augmented: IntArray, target: IntArray, labels: IntArray
) -> npt.NDArray[np.bool_]:
    """Says of each attacked image what DAC counts."""
    return np.equal(target, labels) | np.not_equal(augmented, target)


def _share(chosen: npt.NDArray[np.bool_]) -> Rate:
    return Rate(int(chosen.sum()), len(chosen))


def _check_lengths(labels: IntArray, **answers: IntArray) -> None:
    for name, values in answers.items():
        if np.shape(values) != np.shape(labels) or np.ndim(values) != 1:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected one class for each of "
                f"the {np.shape(labels)} labels. Received: shape {np.shape(values)}"
            )
