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
from keras_traps.detectors.trapdoor import (
    TRAPDOOR_PRESETS,
    Trapdoor,
    TrapdoorRecipe,
)

__all__ = [
    "TRAPDOOR_PRESETS",
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
    "Trapdoor",
    "TrapdoorRecipe",
    "check_detector",
]
