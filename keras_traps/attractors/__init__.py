"""Attractors: a watermark decoder beside a classifier, and its forensic analyzer."""

from keras_traps.attractors.calibration import Calibration, calibrate
from keras_traps.attractors.forensics import (
    CONDITIONS,
    ForensicAnalyzer,
    Thresholds,
    Verdict,
)
from keras_traps.attractors.injection import (
    TrapSettings,
    decoder_of,
    inject,
    raw_sum,
)
from keras_traps.attractors.integration import integrate

__all__ = [
    "CONDITIONS",
    "Calibration",
    "ForensicAnalyzer",
    "Thresholds",
    "TrapSettings",
    "Verdict",
    "calibrate",
    "decoder_of",
    "inject",
    "integrate",
    "raw_sum",
]
