import json
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import pytest
from absl import app, flags

from keras_traps import _recipe_calibration
from keras_traps.provenance import weights_sha256
from recipes import attractors

FEW = ("--num_examples=6", "--attacks=FGSM", "--variant=paper")


def run(*arguments: str) -> None:
    values = attractors.define_flags(flags.FlagValues())
    attractors.main(values(["attractors", *arguments]), values)


def fail(*_: Any, **__: Any) -> None:
    raise AssertionError("this was done already")


def findings(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "report/report.json").read_text())
    found["provenance"].pop("date")
    return found


@pytest.fixture(scope="module")
def model(
    digits_classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("models") / "digits.keras"
    digits_classifier.save(path)
    return path


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run."""
    workdir = tmp_path_factory.mktemp("run") / "digits"
    arguments = (f"--model={model}", f"--workdir={workdir}", *FEW)
    with pytest.MonkeyPatch.context() as patch:
        script = str(Path(attractors.__file__))
        patch.setattr(sys, "argv", [script, "--data_dir", str(workdir), *arguments])
        run(*arguments)
    return workdir


def test_it_writes_records_calibration_and_report(
    finished: Path, digits_classifier: keras.Model
) -> None:
    found = findings(finished)
    assert [(row["attack"], row["variant"]) for row in found["rows"]] == [
        ("FGSM", "paper")
    ]
    assert found["rows"][0]["settings"] == {"eps": 0.3}
    assert found["provenance"]["images attacked"] == 6
    assert found["provenance"]["classifier"] == weights_sha256(digits_classifier)
    calibration = json.loads((finished / "calibration.json").read_text())
    assert calibration["settings"]["output"] == "logits"
    assert calibration["changed_answers"] <= 0.001
    assert sorted(path.name for path in finished.iterdir()) == [
        "calibration.json",
        "records",
        "report",
    ]


def test_the_report_holds_no_path_of_this_machine(finished: Path) -> None:
    found = findings(finished)
    command = found["provenance"]["command"]
    assert command.startswith("python recipes/attractors.py --data_dir digits --model=")
    text = json.dumps(found)
    assert str(finished.parent) not in text
    assert str(Path(attractors.__file__).parent) not in text


def test_a_directory_in_use_is_refused_before_any_work(
    finished: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.*")}
    monkeypatch.setattr(attractors, "trap", fail)
    with pytest.raises(FileExistsError, match=r"holds records already.*--resume"):
        run(f"--model={model}", f"--workdir={finished}", *FEW)
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*.*")}
    assert after == before


def test_resuming_uses_what_is_there(
    finished: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = findings(finished)
    calibration = (finished / "calibration.json").read_bytes()
    monkeypatch.setattr(_recipe_calibration, "calibrate", fail)

    run(f"--model={model}", f"--workdir={finished}", "--resume", *FEW)

    again = findings(finished)
    for found in (first, again):
        found["provenance"].pop("command", None)
    assert again == first
    assert (finished / "calibration.json").read_bytes() == calibration


@pytest.mark.parametrize("flag", ["--seed=1", "--chunk_size=3"])
def test_a_run_that_is_refused_leaves_everything_as_it_was(
    finished: Path, model: Path, flag: str
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.*")}
    with pytest.raises(ValueError, match=f"{flag[2:-2]} differ"):
        run(f"--model={model}", f"--workdir={finished}", "--resume", *FEW, flag)
    after = {path: path.read_bytes() for path in finished.rglob("*.*")}
    assert after == before


def test_a_run_that_is_refused_leaves_no_calibration(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished / "records", workdir / "records")
    with pytest.raises(ValueError, match="other settings: chunk_size differ"):
        run(
            f"--model={model}",
            f"--workdir={workdir}",
            "--resume",
            *FEW,
            "--chunk_size=3",
        )
    assert [path.name for path in workdir.iterdir()] == ["records"]


def test_another_calibration_than_the_one_there_is_refused(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    other = json.loads((finished / "calibration.json").read_text())
    other["settings"]["a2"] /= 2
    (tmp_path / "other.json").write_text(json.dumps(other))
    before = (finished / "calibration.json").read_bytes()
    with pytest.raises(ValueError, match=r"calibration\.json was made otherwise: a2 d"):
        run(
            f"--model={model}",
            f"--workdir={finished}",
            "--resume",
            f"--calibration={tmp_path / 'other.json'}",
            *FEW,
        )
    assert (finished / "calibration.json").read_bytes() == before


def test_a_calibration_that_is_damaged_is_told(model: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "calibration.json").write_text("{}")
    with pytest.raises(ValueError, match=r"calibration\.json is damaged"):
        run(f"--model={model}", f"--workdir={workdir}", *FEW)


def test_resuming_with_other_settings_is_refused(finished: Path, model: Path) -> None:
    with pytest.raises(ValueError, match="other settings: chunk_size differ"):
        run(
            f"--model={model}",
            f"--workdir={finished}",
            "--resume",
            *FEW,
            "--chunk_size=3",
        )


@pytest.mark.parametrize(
    "flag",
    [
        "budget=0.4",
        "output=probabilities",
        "small_step_share=0.75",
        "temperature=7",
        "border_weight=2",
    ],
)
def test_a_calibration_that_was_made_otherwise_is_refused(
    finished: Path, model: Path, tmp_path: Path, flag: str
) -> None:
    given = f"--calibration={finished / 'calibration.json'}"
    told = rf"calibration\.json was made with --.*Received: --{flag}"
    for place in ((f"--workdir={tmp_path / 'run'}", given), (f"--workdir={finished}",)):
        with pytest.raises(app.UsageError, match=told):
            run(f"--model={model}", *place, "--resume", *FEW, f"--{flag}")


def test_the_share_of_a_calibration_that_does_not_tell_is_what_is_said(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    older = json.loads((workdir / "calibration.json").read_text())
    assert older.pop("small_step_share") == 0.5
    (workdir / "calibration.json").write_text(json.dumps(older))
    given = f"--calibration={workdir / 'calibration.json'}"
    arguments = (f"--model={model}", *FEW, "--small_step_share=0.75")

    run(*arguments, given, f"--workdir={tmp_path / 'second'}")
    second = json.loads((tmp_path / "second" / "calibration.json").read_text())
    assert second == {**older, "small_step_share": 0.75}

    # The file of the first run stays as it was.
    run(*arguments, f"--workdir={workdir}", "--resume")
    assert json.loads((workdir / "calibration.json").read_text()) == older


def test_a_calibration_is_used_for_another_seed(
    finished: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_recipe_calibration, "calibrate", fail)
    given = finished / "calibration.json"

    run(
        f"--model={model}",
        f"--workdir={tmp_path / 'run'}",
        f"--calibration={given}",
        "--seed=1",
        "--fpr=0.1",
        *FEW,
    )

    first = json.loads(given.read_text())
    second = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert (first["settings"].pop("seed"), second["settings"].pop("seed")) == (0, 1)
    assert second["settings"] == first["settings"]
    assert "used for those of seed 1" in second["explanation"][-1]
    found = findings(tmp_path / "run")
    assert list(found["thresholds"]) == ["0.1"]
    decoders = [f["provenance"]["decoder"] for f in (found, findings(finished))]
    assert decoders[0] != decoders[1]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--attacks=FGSM,CW3", "'digits' has FGSM, RFGSM.*Received: CW3"),
        ("--preset=table9", "Expected one of table7_mnist.*'table9'"),
    ],
)
def test_an_unknown_attack_is_told_before_anything_is_made(
    argument: str, expected: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=expected):
        run(f"--model={model}", f"--workdir={tmp_path / 'run'}", argument)
    assert not list(tmp_path.iterdir())
