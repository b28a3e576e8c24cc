"""What became of the images that a library attacked, judged the same way for all."""

import dataclasses

import numpy as np
import numpy.typing as npt

from benchmarks import _measure
from benchmarks._attack_cases import Case
from benchmarks._attack_victim import Victim
from keras_traps._checks import FloatArray
from keras_traps.models.inference import predict

# Rounding of x + eps in float32, with room for libraries that compute it otherwise.
_BALL_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of each image.

    Args:
        success: `(images,)`, bool: the model gives the target, or another class than
            the true one.
        l2: `(images,)`, float32: L2 distance to the clean image, pixels in [0, 1].
    """

    success: npt.NDArray[np.bool_]
    l2: FloatArray


def judge(victim: Victim, case: Case, images: FloatArray) -> Outcome:
    """Judges the result of an attack.

    Args:
        victim: What was attacked.
        case: How.
        images: What the library returned.

    Returns:
        The outcome. Images that are not finite or lie outside the ball have failed, and
        so have all-black ones, which Foolbox returns where it found nothing.
    """
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    images = np.clip(np.nan_to_num(images), 0, 1).astype(np.float32)
    change = (images - victim.images).reshape(len(images), -1)
    answers = predict(victim.model, images).argmax(axis=1)
    success = (
        answers == victim.targets if case.attack.targeted else answers != victim.labels
    )
    success &= finite & images.any(axis=(1, 2, 3))
    if case.attack.linf_bound is not None:
        bound = case.attack.linf_bound + _BALL_TOLERANCE
        success &= np.abs(change).max(axis=1) <= bound
    return Outcome(success, np.linalg.norm(change, axis=1))


def summary(outcome: Outcome) -> _measure.Row:
    """Returns the rate of success, and the mean L2 of the successes."""
    row: _measure.Row = {"success": float(outcome.success.mean())}
    if outcome.success.any():
        row["l2"] = float(outcome.l2[outcome.success].mean())
    return row


def compare(case: Case, ours: Outcome, theirs: Outcome) -> _measure.Row:
    """Compares our outcome with that of another library.

    Args:
        case: The attack.
        ours: Our outcome.
        theirs: Theirs, on the same images.

    Returns:
        `points`, by how many hundredths our rate of success is higher, and for an
        attack that looks for the smallest change `l2_ratio`, our mean distance over
        theirs on the images on which both succeeded.
    """
    gain = ours.success.mean() - theirs.success.mean()
    row: _measure.Row = {"points": 100 * float(gain)}
    both = ours.success & theirs.success
    if case.minimal and both.any():
        row["l2_ratio"] = float(ours.l2[both].mean() / theirs.l2[both].mean())
    return row
