"""Luring: a trainable component that draws attacks away from a frozen classifier."""

from keras_traps.luring.answers import (
    FrozenAnswers,
    answered_dataset,
    frozen_answers,
)
from keras_traps.luring.batches import batch_order
from keras_traps.luring.classifier import LuredClassifier
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
from keras_traps.luring.schemes import agreement_model, target_model

__all__ = [
    "CleanMetrics",
    "FrozenAnswers",
    "LuredClassifier",
    "LuringMetrics",
    "adequation_rate",
    "adversarial_accuracy",
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
