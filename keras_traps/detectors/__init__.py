"""Detectors: a score of images, and thresholds set on clean ones; those of others."""

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
from keras_traps.detectors.lid import LID
from keras_traps.detectors.magnet import MagNet

__all__ = [
    "LID",
    "AtRates",
    "BitDepth",
    "ClassifierDetector",
    "Detected",
    "Detection",
    "Detector",
    "FeatureSqueezing",
    "MagNet",
    "Median",
    "NonLocalMeans",
    "ScoreDetector",
    "Squeezer",
    "check_detector",
]
