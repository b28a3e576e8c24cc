"""The attractor paper's figures and an ablation, from one's own data and model."""

from keras_traps.evaluation.figures.study import Study, write_study

__all__ = ["Study", "write_study"]
