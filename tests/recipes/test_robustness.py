import itertools
import json
from pathlib import Path
from typing import Any

import keras
import pytest
from absl import app, flags

from recipes import worst_case


def run(*arguments: str) -> None:
    values = worst_case.define_flags(flags.FlagValues())
    worst_case.main(values(["worst_case", *arguments]), values)


def read(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "worst_case.json").read_text())
    return found


@pytest.fixture(scope="module")
def model(
    digits_classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("models") / "digits.keras"
    digits_classifier.save(path)
    return path


def test_what_fell_is_not_attacked_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    arguments = (
        f"--model={model}",
        f"--workdir={workdir}",
        "--attacks=FGSM,BIM,PGD",
        "--num_examples=20",
        "--chunk_size=8",
        "--subject=undefended",
    )
    run(*arguments)
    found = read(workdir)

    assert found["fpr"] == 0.05
    assert found["preset"] == "digits"
    assert found["attacks"]["FGSM"]["eps"] == 0.3
    # Attacks of eps 0.3 fool an undefended classifier of digits on every image.
    names = ["FGSM", "BIM", "PGD"]
    assert found["tried"]["FGSM"] == 20
    for name, after in itertools.pairwise(names):
        assert found["tried"][after] == found["tried"][name] - found["felled"][name]
    assert found["overall"]["count"] == sum(found["felled"].values())
    assert found["overall"]["total"] == 20
    assert 0 < found["felled"]["FGSM"] < 20 or found["tried"]["BIM"] == 0
    assert f"Any attack: {found['overall']['value']:.2%}" in capsys.readouterr().out

    run(*arguments, "--resume")
    again = read(workdir)
    for content in (found, again):
        content.pop("provenance")
    assert again == found


def test_a_wrong_command_line_is_told() -> None:
    with pytest.raises(app.UsageError, match="--model and --workdir are required"):
        run("--workdir=run")
    with pytest.raises(flags.IllegalFlagValueError):
        run("--subject=nobody")
