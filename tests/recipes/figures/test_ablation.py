import dataclasses
from typing import Any

import pytest
from figures.ablation import ablation, choices

from keras_traps import attacks
from keras_traps.attractors import Calibration
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence


def test_what_the_calibration_has_is_not_varied_to(
    linear_calibration: Calibration,
) -> None:
    found = choices(dataclasses.replace(linear_calibration, small_step_share=0.1))
    assert "share 0.1" in next(iter(found["none"]))
    assert [*found["share of the small step"]] == ["0.03", "0.5", "1", "2"]
    assert found["pixels of step 3"]["two in three"] == {"steps": (3.0, 3.0, 128.0)}
    assert [*found["key"]] == ["public key 1", "public key 2"]


def test_each_choice_is_a_row_that_changes_what_its_name_says(
    defence: Defence,
    linear_calibration: Calibration,
    digits_train: Dataset,
    digits_test: Dataset,
) -> None:
    varied: dict[str, dict[str, dict[str, Any]]] = {
        "none": {"as it is": {}},
        "pixels of step 3": {"all pixels 128": {"steps": (128.0,)}},
        "share of the small step": {"1": {"small_step_share": 1.0}},
    }
    numbers = ablation(
        defence,
        linear_calibration,
        varied,
        attacks.preset("digits", ["FGSM"]),
        digits_train,
        digits_test.take(100),
        num_attacked=8,
    ).numbers
    rows = numbers["rows"]
    assert [row["group"] for row in rows] == [*varied]
    assert [row["name"] for row in rows] == ["as it is", "all pixels 128", "1"]
    settings, (first, large, more) = linear_calibration.settings, rows
    assert (first["step_weights"], first["a2"]) == (settings.step_weights, settings.a2)
    assert large["step_weights"] == (1.0,)
    # The weight follows the share.
    assert more["step_weights"][0] == pytest.approx(2 * first["step_weights"][0])
    for row in rows:
        few, many = row["FGSM"]["unnoticed"]
        assert 0 <= few <= many <= row["FGSM"]["fooled"] <= 1
    assert (numbers["attacked"], numbers["clean"]) == (8, 100)
