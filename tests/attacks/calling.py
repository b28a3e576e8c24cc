"""How tests call attacks of either kind alike."""

from collections.abc import Hashable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks import AttackResult, create, loop
from keras_traps.detectors import ScoreDetector

Settings = dict[str, Any]

SINGLE: Settings = {"eps": 0.3}
RANDOMISED: Settings = {"eps": 0.3, "alpha": 0.1}
ITERATIVE: Settings = {"eps": 0.3, "eps_iter": 0.05, "nb_iter": 3}
ADAPTIVE: Settings = {"eps": 0.3, "nb_iter": 3, "nb_restarts": 2}
_SEARCH: Settings = {"binary_search_steps": 2, "max_iterations": 4}
OURS: dict[str, Settings] = {
    **dict.fromkeys(("FGSM", "LLC"), SINGLE),
    **dict.fromkeys(("RFGSM", "RLLC"), RANDOMISED),
    **dict.fromkeys(("BIM", "ILLC", "PGD", "UMIFGSM", "TMIFGSM"), ITERATIVE),
    "UAP": {"eps": 0.3, "nb_at_once": 2, "max_iter": 2},
    "DeepFool": {"max_iter": 3},
    "OM": {**_SEARCH, "noise_count": 3, "noise_mag": 0.05},
    "BPDA": ITERATIVE,
    "SPSA": {"eps": 0.3, "nb_iter": 2, "spsa_samples": 4},
    "JSMA": {"gamma": 0.5},
    "BLB": _SEARCH,
    "CW2": _SEARCH,
    "EAD": _SEARCH,
    "MIM": ITERATIVE,
    "MIML2": {**ITERATIVE, "radius": 1.0},
    "DIM": ITERATIVE,
    "MIM-TI": ITERATIVE,
    "DIM-TI": ITERATIVE,
    "TI-PGD": ITERATIVE,
    "EOT-PGD": {**ITERATIVE, "eot_iter": 2},
    "UCW2": _SEARCH,
    "Noise": {"eps": 0.3, "nb_restarts": 2},
    "NES": {"eps": 0.3, "nb_queries": 25, "nes_samples": 4},
    "SPSA-Q": {"eps": 0.3, "nb_queries": 25, "spsa_samples": 4},
    "Square": {"eps": 0.3, "nb_queries": 25},
    "RayS": {"eps": 0.3, "nb_queries": 25},
    "HopSkipJump": {"nb_queries": 60},
    **dict.fromkeys(("SelectivePGD", "OrthogonalPGD"), ADAPTIVE),
    "LagrangianPGD": {**ADAPTIVE, "binary_search_steps": 2},
    # Corners of a box are the same from any start.
    "APGD": {"eps": 0.8, "norm": "L2", "nb_iter": 3},
    "APGD-T": {"eps": 0.8, "norm": "L2", "nb_iter": 3, "nb_targets": 2},
    "FAB": {"eps": 0.3, "nb_iter": 3, "nb_targets": 2},
}
EVERY: dict[str, Settings] = {
    **OURS,
    "cleverhans/FGM": SINGLE,
    "cleverhans/BIM": ITERATIVE,
    "cleverhans/PGD": ITERATIVE,
    "cleverhans/Madry": ITERATIVE,
    "cleverhans/MIM": ITERATIVE,
    "cleverhans/CW2": {"binary_search_steps": 1, "max_iterations": 2},
    "cleverhans/SPSA": {"eps": 0.3, "nb_iter": 2, "spsa_samples": 4},
}
"""Settings for every attack of the registry with which it is soon done."""


class Weighted(ScoreDetector):
    """The sum of an image's pixels, each times a number, as a score."""

    def __init__(self, weights: npt.ArrayLike = 1.0, threshold: float = 0.0) -> None:
        self.weights = tf.constant(weights, tf.float32)
        self._thresholds = {0.05: threshold}

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(self.weights * images, axis=(1, 2, 3))

    def score(self, images: npt.ArrayLike) -> FloatArray:
        return np.asarray(self.tf_score(tf.constant(images, tf.float32)))


BRIGHTNESS = Weighted()
"""Flags all images that are not black."""


def run(
    name: str,
    model: Any,
    images: npt.ArrayLike,
    classes: npt.ArrayLike,
    settings: Settings,
    **arguments: Any,
) -> AttackResult:
    """Attacks: an untargeted attack leaves `classes`, a targeted one aims at them.

    One that needs a detector evades `BRIGHTNESS` where there is no other one.
    """
    made = create(name, **settings)
    if made.needs_detector:
        arguments = {"detector": BRIGHTNESS, **arguments}
    classes = np.asarray(classes)
    if not made.targeted:
        return made(model, images, classes, **arguments)
    wrong = (classes + 1) % int(model.output_shape[1])
    return made(model, images, wrong, y_target=classes, **arguments)


def attack(*arguments: Any, **more: Any) -> npt.NDArray[np.float32]:
    """Returns the images that `run` makes."""
    return run(*arguments, **more).images


def compiled_parts(model: keras.Model) -> dict[Hashable, Any]:
    """Returns the `tf.function`s that are kept for a model."""
    return {
        key: part
        for key, part in loop._parts.get(model, dict).items()
        if isinstance(part, tf.types.experimental.PolymorphicFunction)
    }
