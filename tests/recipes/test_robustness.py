import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import robustness
from command_line import CommandLineError

from keras_traps.evaluation.report import percent


def read(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "worst_case.json").read_text())
    return found


def test_what_fell_is_not_attacked_again(
    digits_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    arguments = (
        f"--model={digits_file}",
        f"--workdir={workdir}",
        "--attacks=FGSM,BIM,PGD",
        "--num_examples=20",
        "--chunk_size=8",
        "--subject=undefended",
    )
    robustness.main(arguments)
    found = read(workdir)

    assert found["attacks"]["FGSM"]["eps"] == 0.3
    names = ["FGSM", "BIM", "PGD"]
    assert found["tried"]["FGSM"] == 20
    for name, after in itertools.pairwise(names):
        assert found["tried"][after] == found["tried"][name] - found["felled"][name]
    assert found["overall"]["count"] == sum(found["felled"].values())
    assert found["overall"]["total"] == 20
    # Attacks of eps 0.3 fool an undefended classifier of digits.
    assert found["felled"]["FGSM"] > 0
    told = percent(found["overall"]["value"])
    assert f"Any attack: {told} % of 20 images" in capsys.readouterr().out

    robustness.main([*arguments, "--resume"])
    again = read(workdir)
    for content in (found, again):
        content.pop("provenance")
    assert again == found
    with pytest.raises(CommandLineError, match="--resume"):
        robustness.main(arguments)


def test_a_wrong_command_line_is_told(digits_file: Path, tmp_path: Path) -> None:
    place = (f"--model={digits_file}", f"--workdir={tmp_path / 'run'}")
    for argument, expected in (
        ("--subject=nobody", "--subject: expected one of undefended, paper"),
        ("--attacks=FGSM,CW3", "not CW3"),
    ):
        with pytest.raises(CommandLineError, match=expected):
            robustness.main([*place, argument])
