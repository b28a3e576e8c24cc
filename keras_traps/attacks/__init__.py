"""Adversarial attacks: one call form, one registry, the papers' settings by name."""

from keras_traps.attacks.base import Attack, AttackResult, Batch, Perturbed
from keras_traps.attacks.presets import PRESETS
from keras_traps.attacks.registry import create, names, preset, register
from keras_traps.attacks.targets import least_likely_targets, random_targets

__all__ = [
    "PRESETS",
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
