"""Attractors: a watermark decoder beside a classifier, and its forensic analyzer."""

from keras_traps.attractors.analysis import (
    AttractorCosines,
    AttractorSearch,
    BasinCheck,
    DensityCosines,
    DensityEstimate,
    LocalDensity,
    NearestAttractors,
    basin_share,
    both_answers,
    density_cosines,
    gradient_norms,
    is_attractor,
    loss_cosines,
    nearest_attractors,
    output_norms,
    scores_of,
    soft_label_loss,
)
from keras_traps.attractors.calibration import Calibration, calibrate
from keras_traps.attractors.counterexample import Counterexample, make_counterexample
from keras_traps.attractors.forensics import ForensicAnalyzer, Verdict
from keras_traps.attractors.injection import (
    TrapSettings,
    decoder_of,
    inject,
    raw_sum,
)
from keras_traps.attractors.integration import integrate
from keras_traps.attractors.thresholds import Thresholds
from keras_traps.attractors.trapdoor_detection import TrapdoorAnalyzer, TrapdoorVerdict
from keras_traps.ops.forensics import CONDITIONS

__all__ = [
    "CONDITIONS",
    "AttractorCosines",
    "AttractorSearch",
    "BasinCheck",
    "Calibration",
    "Counterexample",
    "DensityCosines",
    "DensityEstimate",
    "ForensicAnalyzer",
    "LocalDensity",
    "NearestAttractors",
    "Thresholds",
    "TrapSettings",
    "TrapdoorAnalyzer",
    "TrapdoorVerdict",
    "Verdict",
    "basin_share",
    "both_answers",
    "calibrate",
    "decoder_of",
    "density_cosines",
    "gradient_norms",
    "inject",
    "integrate",
    "is_attractor",
    "loss_cosines",
    "make_counterexample",
    "nearest_attractors",
    "output_norms",
    "raw_sum",
    "scores_of",
    "soft_label_loss",
]
