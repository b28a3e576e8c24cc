"""Detectors: a score of images, and thresholds set on clean ones."""

from keras_traps.detectors.base import (
    AtRates,
    ClassifierDetector,
    Detected,
    Detection,
    Detector,
    ScoreDetector,
    check_detector,
)

__all__ = [
    "AtRates",
    "ClassifierDetector",
    "Detected",
    "Detection",
    "Detector",
    "ScoreDetector",
    "check_detector",
]
