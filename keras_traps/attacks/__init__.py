"""Adversarial attacks: one call form, one registry, the papers' settings by name."""

from keras_traps.attacks.base import Attack, AttackResult, Batch, Perturbed
from keras_traps.attacks.presets import PRESET_NOTES, PRESETS
from keras_traps.attacks.presets_luring import LURING_EPS, LURING_SWEEPS
from keras_traps.attacks.registry import create, names, preset, register
from keras_traps.attacks.targets import least_likely_targets, random_targets

__all__ = [
    "LURING_EPS",
    "LURING_SWEEPS",
    "PRESETS",
    "PRESET_NOTES",
    "Attack",
    "AttackResult",
    "Batch",
    "Perturbed",
    "create",
    "least_likely_targets",
    "names",
    "preset",
    "random_targets",
    "register",
]
