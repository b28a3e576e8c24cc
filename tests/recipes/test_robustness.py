import itertools
import json
from pathlib import Path
from typing import Any

import keras
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
        robustness.main(["worst_case", *arguments, "--subject=undefended", *more])
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
        robustness.main(["worst_case", *arguments, "--subject=nobody"])


def test_contenders_of_every_kind_are_evaluated(
    digits_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lured = tmp_path / "lured"
    lured.mkdir()
    target = keras.models.load_model(digits_file)
    target.save(lured / "target.keras")
    inputs = keras.Input((8, 8, 1))
    keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs)).save(lured / "lure.keras")
    workdir = tmp_path / "run"
    arguments = [
        "leaderboard",
        *(f"--contender={name}:{digits_file}" for name in ("c:plain", "m:traps")),
        f"--contender=lured:luring:{lured}",
        *(f"--substitute=own:{digits_file}", f"--workdir={workdir}", "--eps=0.1"),
        *("--attacks=PGD,RayS", "--num_examples=6", "--fpr=0.05"),
    ]
    robustness.main(arguments)
    found = json.loads((workdir / "leaderboard.json").read_text())
    names = [row["contender"] for row in found["rows"]]
    assert names == ["c", "m", "lured-target", "lured-agreement"]
    # P is the identity: nobody disagrees, and nothing is flagged.
    assert found["rows"][3]["false_positives"]["0.05"]["count"] == 0
    assert str(workdir / "leaderboard.html") in capsys.readouterr().out
    with pytest.raises(CommandLineError, match="--resume"):
        robustness.main(arguments)


@pytest.mark.parametrize(
    "text",
    ["c", "c:other:x", "c:plain:x:y", "c:luring:nowhere", "c:detector:nowhere"],
)
def test_a_contender_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    wrong = [f"--contender={text}", f"--workdir={tmp_path}", "--eps=0.1"]
    with pytest.raises(CommandLineError, match="--contender"):
        robustness.main(["leaderboard", *wrong])


def test_an_attack_is_tested_on_the_classifier_and_on_its_traps(
    digits_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robustness.main(
        [
            *("binarize", f"--model={digits_file}", f"--workdir={tmp_path / 'run'}"),
            *("--attacks=PGD", "--eps=0.2", "--num_examples=3", "--num_inner=20"),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines if line.startswith("PGD")]
    assert [row[:2] for row in table] == [["PGD", "undefended"], ["PGD", "traps"]]
    found = json.loads((tmp_path / "run" / "binarization.json").read_text())
    assert found["rows"][0]["found"]["attack"] == {
        "count": 3,
        "total": 3,
        "value": 1.0,
        "interval": found["rows"][0]["found"]["attack"]["interval"],
    }
    assert "classifier" in found["provenance"]
    assert found["rows"][0]["settings"]["eps_iter"] == pytest.approx(0.02)
    watching = ["binarize", f"--model={digits_file}", f"--workdir={tmp_path / 'other'}"]
    with pytest.raises(CommandLineError, match="no detector watches SelectivePGD"):
        robustness.main([*watching, "--attacks=SelectivePGD", "--eps=0.2"])
    # It finds what is planted where nothing is masked.
    assert table[0][2] == "100.0%"
