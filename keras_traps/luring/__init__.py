"""Luring: a trainable component that draws attacks away from a frozen classifier."""

from keras_traps.luring.classifier import (
    FrozenAnswers,
    LuredClassifier,
    answered_dataset,
    batch_order,
    frozen_answers,
)
from keras_traps.luring.metrics import (
    CleanMetrics,
    LuringMetrics,
    clean_metrics,
    luring_metrics,
)
from keras_traps.luring.schemes import (
    DisagreementDetector,
    agreed_class,
    agreement_model,
    target_model,
)

__all__ = [
    "CleanMetrics",
    "DisagreementDetector",
    "FrozenAnswers",
    "LuredClassifier",
    "LuringMetrics",
    "agreed_class",
    "agreement_model",
    "answered_dataset",
    "batch_order",
    "clean_metrics",
    "frozen_answers",
    "luring_metrics",
    "target_model",
]
