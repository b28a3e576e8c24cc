"""The calibration that a work directory keeps beside what was made with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from keras_traps._files import write_atomically
from keras_traps.attractors import Calibration

_FILE = "calibration.json"


def calibration_path(workdir: str | Path) -> Path:
    """Returns where a work directory keeps its calibration, whether it has one or not.

    Args:
        workdir: The directory.

    Returns:
        The path of its `calibration.json`.
    """
    return Path(workdir) / _FILE


def check_calibration(calibration: Calibration, workdir: str | Path) -> None:
    """Refuses a calibration that is not the one that a work directory keeps.

    Args:
        calibration: The one that is to be used.
        workdir: The directory; any will do that keeps none.

    Raises:
        TypeError: If it holds what no file can.
        ValueError: If it keeps another (the message names what differs), or its file
            is damaged.
    """
    wanted = _compared(calibration)
    path = calibration_path(workdir)
    if not path.exists():
        return
    try:
        found = _compared(Calibration.from_dict(json.loads(path.read_text("utf-8"))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"The calibration {path} is damaged: {error}") from error
    if wanted["small_step_share"] is None or found["small_step_share"] is None:
        # An older file does not tell.
        del wanted["small_step_share"]
    if different := [name for name in wanted if found[name] != wanted[name]]:
        raise ValueError(
            f"The calibration {path} was made otherwise: {', '.join(different)} "
            "differ. Go on with it by `--resume` and what it was made with, or choose "
            "another `--workdir`."
        )


def keep_calibration(calibration: Calibration, workdir: str | Path) -> None:
    """Writes a calibration into a work directory; one that is there is never replaced.

    Args:
        calibration: What `check_calibration` has nothing against.
        workdir: The directory.

    Raises:
        OSError: If it cannot be written to.
    """
    path = calibration_path(workdir)
    if not path.exists():
        write_atomically(path, _text(calibration).encode())


def _text(calibration: Calibration) -> str:
    return json.dumps(calibration.to_dict(), indent=1, default=_as_json)


def _as_json(value: object) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(
        "Invalid value for argument `calibration`. Expected numbers and texts. "
        f"Received: {value!r}"
    )


def _compared(calibration: Calibration) -> dict[str, Any]:
    """What two have to have in common, as a file would tell it."""
    content = json.loads(_text(calibration))
    # It says in sentences what the others say in numbers.
    del content["explanation"]
    return {**content.pop("settings"), **content}
