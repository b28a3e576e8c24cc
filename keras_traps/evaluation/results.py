"""What an evaluation found, as plain data: the report draws it, JSON holds it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from keras_traps.rates import Rate

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

Variant = Literal[
    "paper",
    "margin",
    "raw_sum",
    "integrated",
    "integrated_label",
    "integrated_difference",
    "integrated_depth",
]
"""How an attack sees the trapped model.

- `"paper"`: cross-entropy on the normalised sum, as the paper's platform has it.
- `"margin"`: the same attack with a logit-margin loss on the normalised sum.
- `"raw_sum"`: cross-entropy on C + W before its normalisation.
- `"integrated"`: cross-entropy on the classify-detect-recover model, whose recovered
  answer has a gradient.
- `"integrated_label"`, `"integrated_difference"`: the same where it has none.
- `"integrated_depth"`: the same where it has one that leads on into the trap; see
  `keras_traps.layers.DetectRecover` for all of them.
"""

INTEGRATED: tuple[Variant, ...] = (
    "integrated",
    "integrated_label",
    "integrated_difference",
    "integrated_depth",
)
"""The variants in which flagging is part of the answer."""


@dataclasses.dataclass(frozen=True)
class DetectionRates:
    """Detection and recovery at one nominal false-positive rate (Section VI-F1).

    Args:
        fpr: The nominal false-positive rate of the threshold.
        detected: Flagged among misclassified (column e of Table I).
        recovered: Right class among flagged (column f).
        overall: Misclassified and not flagged, among all attempts (column g).
    """

    fpr: float
    detected: Rate
    recovered: Rate
    overall: Rate


@dataclasses.dataclass(frozen=True)
class AttackRow:
    """One attack on one variant of the model.

    Args:
        attack: The attack's name in the registry, e.g. `"FGSM"`.
        kind: `"UA"` (untargeted) or `"TA"` (targeted).
        variant: How the attack sees the model.
        settings: The attack's hyper-parameters.
        note: A remark that a reader of the row needs, or an empty string.
        success_classifier: Attack success on the undefended classifier C; `None`
            where this variant has no such column.
        success_trapped: Attack success on the attacked model.
        detection: One entry per nominal false-positive rate; empty for
            integrated variants, where the overall rate is `success_trapped`.
        auc: Area under the ROC curve, successful adversarial images against as many
            clean ones; `None` where no attack succeeded.
        mean_l2: Mean L2 distance of the successful images, pixels in [0, 1], or
            `None`.
        mean_l2_classifier: The same of the attack on C; `None` where this variant has
            no such column.
        paper: The paper's numbers for this row as fractions, by the names of
            `reference`: `asr_original`, `asr_attractors`, `detection`, `recovery`,
            `overall_asr`, `overall_asr_fpr0.5`, `asr_integrated`; empty where the
            paper has none.
        unflagged: Of an integrated variant, success on images that are not flagged:
            there M answered. The rest of `success_trapped` was flagged, and the wrong
            class recovered. `None` for other variants. Defaults to `None`.
    """

    attack: str
    kind: Literal["UA", "TA"]
    variant: Variant
    settings: dict[str, Any]
    note: str
    success_classifier: Rate | None
    success_trapped: Rate
    detection: tuple[DetectionRates, ...]
    auc: float | None
    mean_l2: float | None
    mean_l2_classifier: float | None
    paper: dict[str, float | None]
    unflagged: Rate | None = None


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """Per image, the worst over all attacks of one variant.

    Args:
        variant: The variant; or `"any_loss"` for all together that attack M itself.
        misclassified: Images that some attack got misclassified.
        overall: By nominal false-positive rate, images that some attack got
            misclassified and not flagged; an integrated variant has the rate alone
            that it is made with.
    """

    variant: Variant | Literal["any_loss"]
    misclassified: Rate
    overall: dict[float, Rate]


@dataclasses.dataclass(frozen=True)
class Fooled:
    """Some of the images that fool M, in medians; `None` where there are none.

    Args:
        count: How many there are.
        confidence: By how much C's answer leads on the clean image: the largest
            probability less the second.
        pull: By how much W prefers M's answer to the true class.
        l2: L2 distance to the clean image, pixels in [0, 1].
    """

    count: int
    confidence: float | None
    pull: float | None
    l2: float | None


@dataclasses.dataclass(frozen=True)
class Unnoticed:
    """The images that an attack fools M with unnoticed, beside those that are noticed.

    Args:
        attack: The attack's name.
        fpr: The nominal false-positive rate of the analyzer.
        unnoticed: Those that are not flagged.
        noticed: Those that are.
    """

    attack: str
    fpr: float
    unnoticed: Fooled
    noticed: Fooled


@dataclasses.dataclass(frozen=True)
class CleanResults:
    """The models on clean test images.

    Args:
        accuracy_classifier: Of the undefended classifier C.
        accuracy_trapped: Of the trapped model M.
        false_positives: By nominal rate, clean test images that are flagged.
        paper_accuracy_classifier: The paper's number as a fraction, or `None`.
        paper_accuracy_trapped: The same for M.
        recovery_classifier: Of the images that C gets right, those that another
            classifier, which is asked in its place where a class is recovered, gets
            right too: the others are lost where they are flagged. `None` where none is
            asked. Defaults to `None`.
    """

    accuracy_classifier: Rate
    accuracy_trapped: Rate
    false_positives: dict[float, Rate]
    paper_accuracy_classifier: float | None
    paper_accuracy_trapped: float | None
    recovery_classifier: Rate | None = None


@dataclasses.dataclass(frozen=True)
class Samples:
    """Arrays behind the pictures of a report.

    Args:
        clean_correlations: `(images, classes)`, W on clean test images.
        clean_scores: `(images,)`, the analyzer's score of the same.
        attacked_correlations: By attack, W on its successful images.
        attacked_scores: By attack, their scores.
        examples: A few images with what became of each.
    """

    clean_correlations: FloatArray
    clean_scores: FloatArray
    attacked_correlations: dict[str, FloatArray]
    attacked_scores: dict[str, FloatArray]
    examples: tuple[Example, ...]


@dataclasses.dataclass(frozen=True)
class Example:
    """One image before and after an attack.

    Args:
        attack: The attack's name.
        clean: `(height, width, channels)`, in [0, 1].
        adversarial: The same shape.
        label: The true class.
        predicted: The trapped model's answer on `adversarial`.
        score: The analyzer's score of `adversarial`.
        flagged: Whether the analyzer called it adversarial.
        fired: Which of `"C1"`, `"C2"`, `"C3"` fired.
        recovered: The class that the analyzer recovered.
    """

    attack: str
    clean: FloatArray
    adversarial: FloatArray
    label: int
    predicted: int
    score: float
    flagged: bool
    fired: tuple[str, ...]
    recovered: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything that one evaluation found.

    Args:
        title: One line for the top of the report.
        dataset: Its name, e.g. `"mnist"`.
        class_names: One per class.
        provenance: What a reader needs to run it again, in the order to show it:
            command, seed, date, versions, hashes of data and models. Values are
            strings, numbers, or flat dicts of them.
        calibration: The constants of the decoder and why they were chosen: the key
            `"explanation"` holds sentences, the others numbers.
        thresholds: By nominal false-positive rate, `U`, `L`, `sigma0`.
        clean: The models on clean test images.
        rows: One per attack and variant.
        worst_cases: One per variant, and one for all losses where there are several.
        warnings: Signs that an attack may be weak or gradients masked, as sentences.
        samples: Arrays for the pictures.
        unnoticed: What gets past the analyzer, one for each attack that does, on
            `"paper"`.
    """

    title: str
    dataset: str
    class_names: tuple[str, ...]
    provenance: dict[str, Any]
    calibration: dict[str, Any]
    thresholds: dict[float, dict[str, float]]
    clean: CleanResults
    rows: tuple[AttackRow, ...]
    worst_cases: tuple[WorstCase, ...]
    warnings: tuple[str, ...]
    samples: Samples
    unnoticed: tuple[Unnoticed, ...] = ()
