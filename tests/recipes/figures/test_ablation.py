import dataclasses

import pytest
from figures.ablation import ablation, choices

from keras_traps import attacks
from keras_traps.attractors import Calibration
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence


def test_each_choice_changes_what_its_name_says(
    defence: Defence, linear_calibration: Calibration, digits_train: Dataset
) -> None:
    found = {
        (choice.group, choice.name): choice.settings
        for choice in choices(defence, linear_calibration, digits_train)
    }
    assert {group for group, _ in found} == {
        "none",
        "pixels of step 3",
        "share of the small step",
        "temperature",
        "C in the sum",
        "norm",
        "C and norm",
        "messages",
        "seed of messages and steps",
    }
    first = next(iter(found.values()))()
    assert first == linear_calibration.settings
    assert found["pixels of step 3", "all pixels 3"]().steps == (3.0,)
    assert found["pixels of step 3", "two in three"]().steps == (3.0, 3.0, 128.0)
    # The weight follows the share.
    more = found["share of the small step", "1"]().step_weights[0]
    assert more == pytest.approx(2 * first.step_weights[0])
    assert found["temperature", "0.1"]().temperature == 0.1
    assert not found["C in the sum", "logits"]().soft_labels
    assert found["norm", "L2"]().ord == 2
    assert found["messages", "every bit alone"]().messages == "random"
    assert found["seed of messages and steps", "2"]().seed == 2


def test_what_the_calibration_has_is_not_varied_to(
    defence: Defence, linear_calibration: Calibration, digits_train: Dataset
) -> None:
    other = dataclasses.replace(linear_calibration, small_step_share=0.1)
    found = list(choices(defence, other, digits_train))
    assert "share 0.1" in found[0].name
    usual = linear_calibration.settings.step_weights[0]
    assert found[0].settings().step_weights[0] == pytest.approx(usual / 5)
    varied = [of.name for of in found if of.group == "share of the small step"]
    assert varied == ["0.03", "0.5", "1", "2"]


def test_every_choice_is_one_row(
    defence: Defence,
    linear_calibration: Calibration,
    digits_train: Dataset,
    digits_test: Dataset,
) -> None:
    listed = list(choices(defence, linear_calibration, digits_train))
    result = ablation(
        defence,
        listed[4:6],
        attacks.preset("digits", ["FGSM"]),
        digits_train,
        digits_test.take(100),
        num_attacked=8,
    )
    numbers = result.numbers
    assert [(row["group"], row["name"]) for row in numbers["rows"]] == [
        ("pixels of step 3", "all pixels 128"),
        ("share of the small step", "0.03"),
    ]
    assert numbers["rows"][0]["step_weights"] == [1.0]
    for row in numbers["rows"]:
        few, more = row["FGSM"]["unnoticed"]
        assert 0 <= few <= more <= row["FGSM"]["fooled"] <= 1
        recovered = row["FGSM"]["recovered"]
        assert recovered is None or 0 <= recovered <= 1
    assert (numbers["attacked"], numbers["clean"]) == (8, 100)
    assert numbers["settings"] == {"FGSM": {"eps": 0.3}}
