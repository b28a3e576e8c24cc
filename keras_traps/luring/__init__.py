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
    adequation_rate,
    adversarial_accuracy,
    clean_metrics,
    detection_adversarial_accuracy,
    detection_rate,
    l0_distortion,
    luring_metrics,
)
from keras_traps.luring.schemes import agreed_class, agreement_model, target_model

__all__ = [
    "CleanMetrics",
    "FrozenAnswers",
    "LuredClassifier",
    "LuringMetrics",
    "adequation_rate",
    "adversarial_accuracy",
    "agreed_class",
    "agreement_model",
    "answered_dataset",
    "batch_order",
    "clean_metrics",
    "detection_adversarial_accuracy",
    "detection_rate",
    "frozen_answers",
    "l0_distortion",
    "luring_metrics",
    "target_model",
]
