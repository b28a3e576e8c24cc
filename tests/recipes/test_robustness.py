import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import robustness

from keras_traps.commands.command_line import CommandLineError


def test_what_fell_is_not_attacked_again(
    digits_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, names = tmp_path / "run", ["FGSM", "BIM", "PGD"]
    arguments = [f"--model={digits_file}", f"--workdir={workdir}", "--chunk_size=8"]
    arguments += [f"--attacks={','.join(names)}", "--num_examples=20"]

    def ran(*more: str) -> dict[str, Any]:
        robustness.main([*arguments, "--subject=undefended", *more])
        found: dict[str, Any] = json.loads((workdir / "worst_case.json").read_text())
        assert found.pop("provenance")["attack settings"] == "digits"
        return found

    found = ran()
    assert found["attacks"]["FGSM"]["eps"] == 0.3
    assert found["clean"]["accuracy_classifier"]["value"] > 0.9
    assert not found["clean"]["near_chance"]
    assert found["tried"]["FGSM"] == 20
    for name, after in itertools.pairwise(names):
        assert found["tried"][after] == found["tried"][name] - found["felled"][name]
    assert found["overall"]["count"] == sum(found["felled"].values())
    # Attacks of eps 0.3 fool an undefended classifier of digits.
    assert found["felled"]["FGSM"] > 0
    assert "of 20 images\n" in capsys.readouterr().out
    assert ran("--resume") == found
    with pytest.raises(CommandLineError, match="--resume"):
        ran()
    with pytest.raises(CommandLineError, match="--subject: expected one of undefended"):
        robustness.main([*arguments, "--subject=nobody"])
