import argparse
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_traps import Calibration, attacks, calibrate
from keras_traps.commands import command_line, trapping
from keras_traps.commands.command_line import CommandLineError
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence


def asked(**flags: Any) -> argparse.Namespace:
    plain: dict[str, Any] = {
        "dataset": "digits",
        "preset": "cpu",
        "attacks": None,
        "setting": [],
    }
    return argparse.Namespace(**{**plain, **flags})


def test_the_help_says_the_defaults_of_a_calibration() -> None:
    parser = command_line.Parser(prog="try.py")
    command_line.add_traps(parser)
    shown = " ".join(parser.format_help().split())
    known = inspect.signature(calibrate).parameters
    for name in ("budget", "small_step_share"):
        _, _, rest = shown.partition(f"--{name} {name.upper()} ")
        assert f"Defaults to {known[name].default}." in rest.partition(" --")[0]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, "digits"),
        ({"dataset": "mnist"}, "table7_mnist_cpu"),
        ({"dataset": "cifar10", "preset": "paper"}, "table7_cifar10"),
        ({"dataset": "own", "preset": "table8"}, "table8"),
    ],
)
def test_a_preset_is_that_of_the_data_set(flags: Any, expected: str) -> None:
    assert trapping.preset_name(asked(**flags)) == expected


def test_attacks_have_the_settings_that_are_given() -> None:
    # One of these alone is out of range.
    given = ["PGD.eps=0.01", "PGD.eps_iter=0.005", "PGD.abort_early=true"]
    flags = asked(attacks=("FGSM", "PGD"), setting=given)
    fgsm, pgd = trapping.choose_attacks(flags)
    assert fgsm.settings()["eps"] == 0.3
    assert pgd.settings()["eps_iter"] == 0.005
    assert pgd.settings()["abort_early"] is True
    (only,) = trapping.choose_attacks(asked(), ["BIM"])
    assert only.name == "BIM"


def test_attacks_of_no_preset_are_set_as_the_one_they_are_like() -> None:
    names = [name for name in attacks.names() if "/" in name or name == "Noise"]
    assert len(names) >= 7
    chosen = trapping.choose_attacks(asked(dataset="cifar10"), names)
    assert [one.name for one in chosen] == names
    assert {one.settings().get("eps", 0.1) for one in chosen} == {0.1}


SETTING = r"ATTACK\.NAME=VALUE, .*\(PGD\).* Received: --setting="


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"dataset": "own"}, "--preset=cpu means nothing for own.* table7_mnist_cpu"),
        ({"preset": "x"}, "--preset=x means nothing for digits"),
        ({"attacks": ("FGSM", "CW3")}, r"of FGSM, .*cleverhans/.*, not CW3$"),
        ({"setting": ["FGSM.eps=0.1"]}, rf"{SETTING}FGSM\.eps=0\.1"),
        ({"setting": ["PGD"]}, f"{SETTING}PGD "),
        ({"setting": ["PGD.nb_iter=some"]}, f"{SETTING}PGD.nb_iter=some "),
        ({"setting": ["PGD.nb_iter=0"]}, f"{SETTING}PGD.nb_iter=0 "),
    ],
)
def test_attacks_that_cannot_be_made_are_told(flags: Any, expected: str) -> None:
    with pytest.raises(CommandLineError, match=expected):
        trapping.choose_attacks(asked(**{"attacks": ("PGD",), **flags}))


def test_a_data_set_that_is_misspelt_is_told_with_those_that_are_known() -> None:
    with pytest.raises(CommandLineError, match=r"'dgits' was not found.*digits, mnist"):
        trapping.load_data(asked(dataset="dgits", data_dir=None, image_size=()))


def test_a_state_dict_of_deepsec_is_loaded(deepsec_weights: Path) -> None:
    path = deepsec_weights / "deepsec_mnist.npz"
    assert trapping.load_classifier(path, "mnist").count_params() == 312_202


@pytest.mark.parametrize(
    ("file", "dataset", "expected"),
    [
        ("some.npz", "digits", "no model for digits; it has mnist, cif"),
        ("some.npz", "mnist", r"--model cannot be read: .*some\.npz"),
        ("some.keras", "mnist", r"--model cannot be read: .*some\.keras"),
    ],
)
def test_a_classifier_that_cannot_be_read_is_told(
    file: str, dataset: str, expected: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "some.npz", weight=np.zeros(3))
    (tmp_path / "some.keras").write_text("no model")
    with pytest.raises(CommandLineError, match=expected):
        trapping.load_classifier(tmp_path / file, dataset)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
def test_a_calibration_that_is_damaged_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(CommandLineError, match=r"calibration\.json is no calibration"):
        trapping.read_calibration(path)


def test_records_are_not_mixed_with_those_of_another_calibration(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
    digits_test: Dataset,
    tmp_path: Path,
) -> None:
    arguments = asked(seed=0, chunk_size=5, workdir=tmp_path, resume=True)
    trapped = trapping.Trapped(digits_defence, digits_calibration, {})
    trapping.open_store(arguments, trapped, digits_train, digits_test)
    other = dataclasses.replace(digits_calibration, budget=0.5)
    with pytest.raises(CommandLineError, match="other settings: budget differ"):
        trapping.open_store(
            arguments, trapped._replace(calibration=other), digits_train, digits_test
        )
