"""What random noise alone does to a trapped classifier: a floor under every attack."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from keras_traps._checks import check_number
from keras_traps.evaluation.candidates import Candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.models.inference import predict
from keras_traps.rates import Rate

NoiseKind = Literal["uniform", "sign"]
"""Each value drawn evenly from the ball, or at its border, up or down."""


@dataclasses.dataclass(frozen=True)
class NoiseRow:
    """What noise of one kind and size does.

    Args:
        kind: How it is drawn.
        eps: The radius of its L-infinity ball, pixels in [0, 1].
        fools_classifier: Images that C gets wrong.
        fools_trapped: Images that M gets wrong.
        unnoticed: By nominal false-positive rate, images that M gets wrong and that
            are not flagged.
    """

    kind: NoiseKind
    eps: float
    fools_classifier: Rate
    fools_trapped: Rate
    unnoticed: dict[float, Rate]


def noise_rows(
    defence: Defence, candidates: Candidates, radii: Sequence[float], *, seed: int = 0
) -> tuple[NoiseRow, ...]:
    """Adds noise to images that C gets right, once for each kind and radius.

    An attack in a ball of the same radius that does no better than this has not
    followed any gradient, and a trap has had nothing to catch.

    Args:
        defence: The classifier with its traps.
        candidates: The images.
        radii: The radii, above 0, pixels in [0, 1].
        seed: Seed of the noise. Defaults to `0`.

    Returns:
        A row for each radius and kind.

    Raises:
        ValueError: If a radius is not above 0.
    """
    for eps in radii:
        check_number(eps, name="radii", above=0)
    return tuple(
        _row(defence, candidates, kind, eps, seed)
        for eps in radii
        for kind in get_args(NoiseKind)
    )


def _row(
    defence: Defence, candidates: Candidates, kind: NoiseKind, eps: float, seed: int
) -> NoiseRow:
    draw = np.random.default_rng(seed)
    shape = candidates.images.shape
    noise: npt.NDArray[np.floating] = draw.uniform(-1, 1, shape)
    if kind == "sign":
        noise = np.sign(noise)
    images = np.clip(candidates.images + eps * noise, 0, 1).astype(np.float32)
    wrong, fooled = (
        predict(model, images).argmax(axis=1) != candidates.labels
        for model in (defence.classifier, defence.trapped)
    )
    unnoticed = {
        fpr: fooled & ~analyzer.detect(images).is_adversarial
        for fpr, analyzer in defence.analyzers.items()
    }
    return NoiseRow(
        kind=kind,
        eps=eps,
        fools_classifier=_rate(wrong),
        fools_trapped=_rate(fooled),
        unnoticed={fpr: _rate(missed) for fpr, missed in unnoticed.items()},
    )


def _rate(chosen: npt.NDArray[np.bool_]) -> Rate:
    return Rate(int(chosen.sum()), len(chosen))
