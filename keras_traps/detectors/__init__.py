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
from keras_traps.detectors.saved import DETECTORS, load
from keras_traps.detectors.taboo_trap import (
    TABOO_TRAP_PRESETS,
    TabooTrap,
    TabooTrapRecipe,
)
from keras_traps.detectors.trapdoor import TRAPDOOR_PRESETS, Trapdoor
from keras_traps.detectors.trapdoor_training import TrapdoorRecipe

__all__ = [
    "DETECTORS",
    "LID",
    "TABOO_TRAP_PRESETS",
    "TRAPDOOR_PRESETS",
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
    "TabooTrap",
    "TabooTrapRecipe",
    "Trapdoor",
    "TrapdoorRecipe",
    "check_detector",
    "load",
]
