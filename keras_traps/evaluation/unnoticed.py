"""Which images an attack gets past the analyzer with, and what tells them apart."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from keras_traps._checks import FloatArray
from keras_traps.attacks import Attack
from keras_traps.attractors import ForensicAnalyzer
from keras_traps.evaluation.records import Record
from keras_traps.evaluation.results import Fooled, Unnoticed
from keras_traps.models.outputs import Output


def confidence(outputs: FloatArray, output: Output) -> FloatArray:
    """Returns how far C's answer leads on each image.

    Args:
        outputs: `(images, classes)`: what C returned.
        output: What that is.

    Returns:
        `(images,)`, in [0, 1]: the largest probability less the second.
    """
    shares = softmax(outputs, axis=1) if output == "logits" else outputs
    ranked = np.sort(shares, axis=1)
    lead: FloatArray = ranked[:, -1] - ranked[:, -2]
    return lead


def unnoticed(
    attack: Attack,
    record: Record,
    analyzers: Mapping[float, ForensicAnalyzer],
    lead: FloatArray,
) -> Unnoticed | None:
    """Compares the images that fool M unnoticed with those that are noticed.

    Args:
        attack: The attack.
        record: What it made of the candidates.
        analyzers: A fitted analyzer by nominal false-positive rate; the first is asked.
        lead: `(candidates,)`: `confidence` of the clean candidates, in the order of the
            record.

    Returns:
        The comparison, or `None` where none goes unnoticed.
    """
    fpr, analyzer = next(iter(analyzers.items()))
    success = record.succeeded(targeted=attack.targeted)
    flagged = analyzer.judge(record.correlations).is_adversarial
    if not (success & ~flagged).any():
        return None
    return Unnoticed(
        attack=attack.name,
        fpr=fpr,
        unnoticed=_describe(record, lead, success & ~flagged),
        noticed=_describe(record, lead, success & flagged),
    )


def _describe(
    record: Record, lead: FloatArray, chosen: npt.NDArray[np.bool_]
) -> Fooled:
    rows = np.flatnonzero(chosen)
    w = record.correlations
    pull = w[rows, record.answers[rows]] - w[rows, record.labels[rows]]

    def median(values: npt.NDArray[np.floating]) -> float | None:
        return float(np.median(values)) if len(values) else None

    return Fooled(
        count=len(rows),
        confidence=median(lead[rows]),
        pull=median(pull),
        l2=median(record.l2[rows]),
    )
