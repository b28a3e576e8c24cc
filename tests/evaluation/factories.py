"""Records, rows and analyzers made by hand."""

import dataclasses
from typing import Any

import numpy as np

from keras_traps._checks import FloatArray
from keras_traps.attractors import ForensicAnalyzer, Thresholds
from keras_traps.evaluation.records import Record
from keras_traps.evaluation.results import AttackRow, DetectionRates, Variant
from keras_traps.layers import QIMDecoder
from keras_traps.rates import Rate


def make_record(count: int = 6, **changes: Any) -> Record:
    """A record of images of three classes that nothing happened to."""
    labels = np.arange(count) % 3
    record = Record(
        ids=np.arange(count),
        labels=labels,
        goals=labels,
        answers=labels,
        correlations=np.zeros((count, 3), np.float32),
        l0=np.full(count, 4),
        l2=np.ones(count, np.float32),
        linf=np.full(count, 0.1, np.float32),
        iterations=np.full(count, 15),
        kept=np.zeros((min(count, 2), 2, 2, 1), np.float32),
    )
    return dataclasses.replace(
        record, **{name: np.asarray(value) for name, value in changes.items()}
    )


def make_analyzer(limit: float, *, scale: float = 1.0) -> ForensicAnalyzer:
    """Flags what has a correlation above `limit` or below its negative.

    The score of an image is the largest absolute correlation over `scale`.
    """
    analyzer = ForensicAnalyzer(QIMDecoder.from_seed(0, num_classes=3, shape=(2, 2, 1)))
    analyzer._thresholds = Thresholds(
        upper=limit,
        lower=-limit,
        deviation=10.0,
        fpr=0.05,
        num_images=100,
        centre=(0.0, 0.0, 0.0),
        scale=(scale, scale, scale),
        score=limit,
    )
    return analyzer


_ALL, _NONE = Rate(100, 100), Rate(0, 100)


def make_row(
    attack: str,
    variant: Variant = "paper",
    *,
    on_classifier: Rate | None = None,
    success: Rate = _ALL,
    overall: tuple[Rate, ...] = (_NONE, _NONE),
) -> AttackRow:
    """A row of a report; everything is caught unless told otherwise."""
    if on_classifier is None and variant == "paper":
        on_classifier = _ALL
    return AttackRow(
        attack=attack,
        kind="UA",
        variant=variant,
        settings={},
        note="",
        success_classifier=on_classifier,
        success_trapped=success,
        detection=tuple(
            DetectionRates(fpr, Rate(0, 0), Rate(0, 0), rate)
            for fpr, rate in zip((0.05, 0.005), overall, strict=False)
        ),
        auc=None,
        mean_l2=None,
        mean_l2_classifier=None,
        paper={},
    )


def scores_of(correlations: FloatArray) -> FloatArray:
    """What `make_analyzer` scores them."""
    return np.abs(correlations).max(axis=1)
