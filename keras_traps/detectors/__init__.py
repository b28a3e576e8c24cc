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
from keras_traps.detectors.feature_squeezing import (
    BitDepth,
    FeatureSqueezing,
    Median,
    NonLocalMeans,
    Squeezer,
)

__all__ = [
    "AtRates",
    "BitDepth",
    "ClassifierDetector",
    "Detected",
    "Detection",
    "Detector",
    "FeatureSqueezing",
    "Median",
    "NonLocalMeans",
    "ScoreDetector",
    "Squeezer",
    "check_detector",
]
