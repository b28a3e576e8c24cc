import argparse
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trapping
from command_line import CommandLineError

from keras_traps import attacks, calibrate


def asked(**flags: Any) -> argparse.Namespace:
    plain: dict[str, Any] = {
        "dataset": "digits",
        "preset": "cpu",
        "attacks": None,
        "setting": [],
    }
    return argparse.Namespace(**{**plain, **flags})


def test_the_flags_of_a_calibration_are_its_arguments_and_say_its_defaults() -> None:
    import command_line

    parser = command_line.Parser(prog="try.py")
    command_line.add_traps(parser)
    shown = " ".join(parser.format_help().split())
    known = inspect.signature(calibrate).parameters
    for name in trapping.CALIBRATING:
        default = known[name].default
        if isinstance(default, float):
            _, _, rest = shown.partition(f"--{name} {name.upper()} ")
            assert f"Defaults to {default}." in rest.partition(" --")[0]


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


@pytest.mark.parametrize(
    "flags",
    [{"dataset": "own"}, {"dataset": "own", "preset": "paper"}, {"preset": "x"}],
)
def test_a_preset_that_means_nothing_is_told(flags: Any) -> None:
    with pytest.raises(
        CommandLineError, match=r"means nothing for .* table7_mnist_cpu"
    ):
        trapping.preset_name(asked(**flags))


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


def test_an_unknown_attack_is_told() -> None:
    with pytest.raises(CommandLineError, match=r"of FGSM, .*cleverhans/.*, not CW3$"):
        trapping.choose_attacks(asked(attacks=("FGSM", "CW3")))


@pytest.mark.parametrize(
    "setting",
    [
        *("FGSM.eps=0.1", "PGD", "PGD.nb_iter", "PGD.nb_iter=some", "PGD.steps=3"),
        "PGD.nb_iter=0",
    ],
)
def test_a_setting_that_is_none_is_told(setting: str) -> None:
    told = rf"ATTACK\.NAME=VALUE, .*\(PGD\).* Received: --setting={setting} \("
    with pytest.raises(CommandLineError, match=told):
        trapping.choose_attacks(asked(attacks=("PGD",), setting=[setting]))


def test_a_data_set_that_is_misspelt_is_told_with_those_that_are_known() -> None:
    with pytest.raises(CommandLineError, match=r"'dgits' was not found.*digits, mnist"):
        trapping.load_data(asked(dataset="dgits", data_dir=None))


def test_a_state_dict_of_deepsec_is_loaded(deepsec_weights: Path) -> None:
    path = deepsec_weights / "deepsec_mnist.npz"
    assert trapping.load_classifier(path, "mnist").count_params() == 312_202


def test_a_classifier_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, weight=np.zeros(3))
    with pytest.raises(
        CommandLineError, match="no model for digits; it has mnist, cif"
    ):
        trapping.load_classifier(path, "digits")
    with pytest.raises(CommandLineError, match=r"--model cannot be read: .*some\.npz"):
        trapping.load_classifier(path, "mnist")
    other = tmp_path / "some.keras"
    other.write_text("no model")
    with pytest.raises(CommandLineError, match=r"--model cannot be read: .*some\.ker"):
        trapping.load_classifier(other, "mnist")


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"settings": 1}'])
def test_a_calibration_that_is_damaged_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(CommandLineError, match=r"calibration\.json is no calibration"):
        trapping.read_calibration(path)
