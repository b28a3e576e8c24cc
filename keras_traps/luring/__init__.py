"""Luring: a trainable component that draws attacks away from a frozen classifier."""

from keras_traps.luring.answers import (
    FrozenAnswers,
    answered_dataset,
    batch_order,
    frozen_answers,
)
from keras_traps.luring.classifier import LuredClassifier

__all__ = [
    "FrozenAnswers",
    "LuredClassifier",
    "answered_dataset",
    "batch_order",
    "frozen_answers",
]
