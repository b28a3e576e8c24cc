"""Facts about the calibration that a work directory keeps."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_traps import Calibration
from keras_traps.evaluation.kept_calibration import (
    calibration_path,
    check_calibration,
    keep_calibration,
)


def with_settings(calibration: Calibration, **changed: Any) -> Calibration:
    settings = dataclasses.replace(calibration.settings, **changed)
    return dataclasses.replace(calibration, settings=settings)


@pytest.mark.parametrize(
    "changed",
    [
        {"a2": np.float32(0.25)},
        {"step_weights": [2.0, 1.0]},
        {"step_weights": np.array([2.0, 1.0], np.float32)},
    ],
)
def test_constants_of_any_kind_of_number_are_kept_and_known_again(
    changed: dict[str, Any], digits_calibration: Calibration, tmp_path: Path
) -> None:
    made = with_settings(digits_calibration, **changed)
    check_calibration(made, tmp_path)
    keep_calibration(made, tmp_path)
    check_calibration(made, tmp_path)
    with pytest.raises(ValueError, match=f"made otherwise: {min(changed)} differ"):
        check_calibration(digits_calibration, tmp_path)


def test_what_no_file_can_hold_is_refused_before_anything_is_written(
    digits_calibration: Calibration, tmp_path: Path
) -> None:
    wrong = with_settings(digits_calibration, a2=object())
    with pytest.raises(TypeError, match="argument `calibration`"):
        check_calibration(wrong, tmp_path)


def test_an_older_file_does_not_tell_the_share(
    digits_calibration: Calibration, tmp_path: Path
) -> None:
    keep_calibration(digits_calibration, tmp_path)
    other = dataclasses.replace(digits_calibration, small_step_share=0.75)
    with pytest.raises(ValueError, match="small_step_share differ"):
        check_calibration(other, tmp_path)
    path = calibration_path(tmp_path)
    content = json.loads(path.read_text("utf-8"))
    del content["small_step_share"]
    path.write_text(json.dumps(content), "utf-8")
    check_calibration(other, tmp_path)
