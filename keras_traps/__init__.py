"""Traps for adversarial attacks in Keras classifiers.

Example:
>>> import keras_traps
>>> calibration = keras_traps.calibrate(classifier, images, labels, bounds=(0, 255))
>>> trapped = keras_traps.inject(classifier, calibration)
>>> analyzer = keras_traps.ForensicAnalyzer(trapped).fit(images, fpr=0.05)
>>> analyzer.detect(suspects).is_adversarial
"""

import importlib
import importlib.abc
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_traps import attacks, detectors, layers, luring, ops, serving
    from keras_traps.attractors import (
        Calibration,
        ForensicAnalyzer,
        Key,
        TrapSettings,
        calibrate,
        inject,
        integrate,
    )
    from keras_traps.evaluation.leaderboard import Contender, evaluate

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "Contender",
    "ForensicAnalyzer",
    "Key",
    "TrapSettings",
    "attacks",
    "calibrate",
    "detectors",
    "evaluate",
    "inject",
    "integrate",
    "layers",
    "luring",
    "ops",
    "serving",
]

_PARTS = {"attacks", "attractors", "datasets", "detectors", "evaluation", "layers"}
_PARTS |= {"luring", "models", "ops", "serving"}
_OF_LEADERBOARD = {"Contender", "evaluate"}


def _backend() -> str:
    """Returns the backend that Keras has, or will have; found as Keras finds it."""
    if "keras" in sys.modules:
        return str(sys.modules["keras"].config.backend())
    if name := os.environ.get("KERAS_BACKEND"):
        return name
    try:
        home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
        found = json.loads((home / "keras.json").read_text(encoding="utf-8"))
        return str(found.get("backend", "tensorflow"))
    except (AttributeError, OSError, RuntimeError, ValueError):
        return "tensorflow"


def _check_backend() -> None:
    """Says what is needed at once, where it would fail deep inside otherwise."""
    if (backend := _backend()) != "tensorflow":
        raise ImportError(
            "keras_traps needs Keras on TensorFlow: set KERAS_BACKEND=tensorflow "
            f"before Keras is imported (it is {backend!r})"
        )


def _register() -> None:
    """Imports the classes that Keras looks up when it reads a file of ours."""
    for part in ("layers", "luring"):
        importlib.import_module(f"{__name__}.{part}")


def _loading(but: str) -> bool:
    """Says whether another module of ours is in the middle of its import."""
    return any(
        getattr(getattr(module, "__spec__", None), "_initializing", False)
        for name, module in [*sys.modules.items()]
        if name.startswith(f"{__name__}.") and name != but
    )


class _WhenKerasComes(importlib.abc.MetaPathFinder):
    """Registers our classes after Keras is imported, where that comes after us."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Finds Keras or a part of ours, which may import it, and has it call us."""
        del path, target
        if fullname != "keras" and not fullname.startswith(f"{__name__}."):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: Any) -> None:
                execute(module)
                if fullname == "keras":
                    _check_backend()
                # In the middle of another import of ours they may not be there yet.
                if "keras" in sys.modules and not _loading(but=fullname):
                    sys.meta_path.remove(self)
                    _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


_check_backend()
if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _WhenKerasComes())


if not TYPE_CHECKING:
    # Where types are checked, a name that is not there stays an error.
    def __getattr__(name: str) -> Any:
        """Imports a name when it is first asked for, and TensorFlow only then."""
        if name in _PARTS:
            return importlib.import_module(f"{__name__}.{name}")
        if name in __all__:
            part = "evaluation.leaderboard" if name in _OF_LEADERBOARD else "attractors"
            module = importlib.import_module(f"{__name__}.{part}")
            found = globals()[name] = getattr(module, name)
            return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
