"""Adversarial attacks: one call form, one registry, the papers' settings by name."""

from keras_traps.attacks.base import (
    Attack,
    AttackResult,
    Batch,
    Kind,
    Knowledge,
    Perturbed,
    TargetRule,
    distances,
    least_likely_targets,
    random_targets,
)
from keras_traps.attacks.loop import Loss
from keras_traps.attacks.presets import LURING_EPS, LURING_SWEEPS, PRESET_NOTES, PRESETS
from keras_traps.attacks.registry import create, names, preset, register

__all__ = [
    "LURING_EPS",
    "LURING_SWEEPS",
    "PRESETS",
    "PRESET_NOTES",
    "Attack",
    "AttackResult",
    "Batch",
    "Kind",
    "Knowledge",
    "Loss",
    "Perturbed",
    "TargetRule",
    "create",
    "distances",
    "least_likely_targets",
    "names",
    "preset",
    "random_targets",
    "register",
]
