"""The calibration that a recipe's flags ask for."""

import dataclasses
import json
from pathlib import Path

import keras
from absl import app, flags

from keras_traps import calibrate, datasets
from keras_traps.attractors import Calibration
from keras_traps.evaluation.kept_calibration import calibration_path


def given_calibration(values: flags.FlagValues, workdir: Path) -> Calibration | None:
    """Reads the calibration that a recipe is to use, where it is to use one.

    Args:
        values: The parsed flags.
        workdir: Where `calibration.json` is read from with `--resume`.

    Returns:
        That of `--calibration` or `--resume`, with the messages of `--seed`; `None`
        where one is to be made.

    Raises:
        app.UsageError: If a flag is not what it was made with.
    """
    written = calibration_path(workdir)
    given = values.calibration or (
        written if values.resume and written.exists() else None
    )
    if not given:
        return None
    content = json.loads(Path(given).expanduser().read_text(encoding="utf-8"))
    calibration = Calibration.from_dict(content).reseeded(values.seed)
    share = calibration.small_step_share
    if share is None and values["small_step_share"].present:
        share = values.small_step_share
        calibration = dataclasses.replace(calibration, small_step_share=share)
    made = {
        "budget": calibration.budget,
        "output": calibration.settings.output,
        "small_step_share": share,
        "temperature": calibration.settings.temperature,
        "border_weight": calibration.settings.border_weight,
    }
    for name, value in made.items():
        if values[name].present and values[name].value != value:
            raise app.UsageError(
                f"{given} was made with --{name}={value}. Received: "
                f"--{name}={values[name].value}"
            )
    return calibration


def find_calibration(
    values: flags.FlagValues,
    classifier: keras.Model,
    train: datasets.Dataset,
    workdir: Path,
) -> Calibration:
    """Returns the calibration of a run: one that was made before, or a new one.

    Args:
        values: The parsed flags.
        classifier: What is trapped.
        train: The images to calibrate on where none is given.
        workdir: See `given_calibration`.

    Returns:
        The calibration.

    Raises:
        app.UsageError: If a flag is not what a given one was made with.
    """
    return given_calibration(values, workdir) or calibrate(
        classifier,
        train.images,
        output=values.output,
        budget=values.budget,
        seed=values.seed,
        small_step_share=values.small_step_share,
        temperature=values.temperature,
        border_weight=values.border_weight,
    )
