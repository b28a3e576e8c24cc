"""Traps for adversarial attacks in Keras classifiers.

Example:
>>> import keras_traps
>>> calibration = keras_traps.calibrate(classifier, images, output="logits")
>>> trapped = keras_traps.inject(classifier, calibration.settings)
>>> analyzer = keras_traps.ForensicAnalyzer(trapped).fit(images, fpr=0.05)
>>> analyzer.detect(suspects).is_adversarial
"""

from keras_traps import layers, ops
from keras_traps.attractors import (
    Calibration,
    ForensicAnalyzer,
    TrapSettings,
    calibrate,
    inject,
    integrate,
)

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "ForensicAnalyzer",
    "TrapSettings",
    "calibrate",
    "inject",
    "integrate",
    "layers",
    "ops",
]
