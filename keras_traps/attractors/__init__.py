"""Attractors: a watermark decoder beside a classifier, and its forensic analyzer."""

from keras_traps.attractors.calibration import Calibration, calibrate
from keras_traps.attractors.copies import Copy, Registry, copies
from keras_traps.attractors.extraction import (
    ExtractedWatermark,
    RebuiltAnalyzer,
    extract,
    with_slope_of,
)
from keras_traps.attractors.forensics import ForensicAnalyzer, Verdict
from keras_traps.attractors.injection import (
    TrapSettings,
    classifier_of,
    decoder_of,
    inject,
    raw_sum,
)
from keras_traps.attractors.integration import integrate
from keras_traps.attractors.thresholds import Thresholds
from keras_traps.attractors.tracing import Trace, trace
from keras_traps.ops.codes import Key
from keras_traps.ops.forensics import CONDITIONS

__all__ = [
    "CONDITIONS",
    "Calibration",
    "Copy",
    "ExtractedWatermark",
    "ForensicAnalyzer",
    "Key",
    "RebuiltAnalyzer",
    "Registry",
    "Thresholds",
    "Trace",
    "TrapSettings",
    "Verdict",
    "calibrate",
    "classifier_of",
    "copies",
    "decoder_of",
    "extract",
    "inject",
    "integrate",
    "raw_sum",
    "trace",
    "with_slope_of",
]
