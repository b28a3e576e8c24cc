"""Traps for adversarial attacks in Keras classifiers.

Example:
>>> import keras_traps
>>> calibration = keras_traps.calibrate(classifier, images, output="logits")
>>> trapped = keras_traps.inject(classifier, calibration.settings)
>>> analyzer = keras_traps.ForensicAnalyzer(trapped).fit(images, fpr=0.05)
>>> analyzer.detect(suspects).is_adversarial
"""

import importlib
from typing import TYPE_CHECKING, Any

# With luring, whose models Keras finds in a file only once their classes are imported.
from keras_traps import layers, luring, ops
from keras_traps.attractors import (
    Calibration,
    ForensicAnalyzer,
    TrapSettings,
    calibrate,
    inject,
    integrate,
)

if TYPE_CHECKING:
    from keras_traps import attacks, serving

__version__ = "0.1.0"

_PARTS = ("attacks", "serving")

__all__ = [
    "Calibration",
    "ForensicAnalyzer",
    "TrapSettings",
    "attacks",
    "calibrate",
    "inject",
    "integrate",
    "layers",
    "luring",
    "ops",
    "serving",
]


if not TYPE_CHECKING:
    # Where types are checked, a name that is not there stays an error.
    def __getattr__(name: str) -> Any:
        """Imports a part when it is first asked for: not everyone needs them all."""
        if name in _PARTS:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
