import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attractors
import keras
import pytest
import trapping
from command_line import CommandLineError

from keras_traps.provenance import weights_sha256

FEW = ("--num_examples=6", "--attacks=FGSM", "--variant=paper")


def run(model: Path, workdir: Path, *arguments: str) -> None:
    attractors.main(["attack", f"--model={model}", f"--workdir={workdir}", *arguments])


def fail(*_: Any, **__: Any) -> None:
    raise AssertionError("this was done already")


def findings(workdir: Path, file: str = "report/report.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / file).read_text())
    for name in ("date", "command"):
        found["provenance"].pop(name)
    return found


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run."""
    workdir = tmp_path_factory.mktemp("run") / "digits"
    run(digits_file, workdir, *FEW)
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


def test_the_report_holds_no_path_of_this_machine(finished: Path) -> None:
    text = (finished / "report/report.json").read_text()
    command = json.loads(text)["provenance"]["command"]
    assert command.startswith("python recipes/attractors.py attack --model=digits.ker")
    assert str(finished.parent) not in text
    assert str(Path(attractors.__file__).parent) not in text


def test_a_directory_in_use_is_refused_before_any_work(
    finished: Path, digits_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(finished)
    monkeypatch.setattr(trapping, "load_data", fail)
    with pytest.raises(CommandLineError, match="--resume"):
        run(digits_file, finished, *FEW)
    assert contents(finished) == before


def test_resuming_uses_what_is_there(
    finished: Path, digits_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, calibration = findings(finished), finished / "calibration.json"
    before = calibration.read_bytes()
    monkeypatch.setattr(trapping, "calibrate", fail)
    run(digits_file, finished, "--resume", *FEW)
    assert findings(finished) == first
    assert calibration.read_bytes() == before


@pytest.mark.parametrize("flag", ["--seed=1", "--chunk_size=3"])
def test_a_run_with_other_settings_is_refused_and_changes_nothing(
    finished: Path, digits_file: Path, flag: str
) -> None:
    before = contents(finished)
    with pytest.raises(CommandLineError, match=rf"{flag[2:-2]}\b.* differ"):
        run(digits_file, finished, "--resume", *FEW, flag)
    assert contents(finished) == before


def test_a_run_that_is_refused_leaves_no_calibration(
    finished: Path, digits_file: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "calibration.json").unlink()
    with pytest.raises(CommandLineError, match="chunk_size differ"):
        run(digits_file, workdir, "--resume", *FEW, "--chunk_size=3")
    assert not (workdir / "calibration.json").exists()


@pytest.mark.parametrize(
    "flag",
    [
        "budget=0.4",
        "output=probabilities",
        "small_step_share=0.75",
        "temperature=7.0",
    ],
)
def test_a_calibration_that_was_made_otherwise_is_refused(
    finished: Path, digits_file: Path, tmp_path: Path, flag: str
) -> None:
    given = f"--calibration={finished / 'calibration.json'}"
    told = rf"calibration\.json was made with --.*, not --{flag}"
    for workdir, more in ((tmp_path / "run", (given,)), (finished, ("--resume",))):
        with pytest.raises(CommandLineError, match=told):
            run(digits_file, workdir, *more, *FEW, f"--{flag}")


def test_a_calibration_is_used_for_another_seed(
    finished: Path, digits_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trapping, "calibrate", fail)
    given = finished / "calibration.json"
    flags = (f"--calibration={given}", "--seed=1", "--fpr=0.1", *FEW)
    run(digits_file, tmp_path / "run", *flags)
    first = json.loads(given.read_text())
    second = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert (first["settings"].pop("seed"), second["settings"].pop("seed")) == (0, 1)
    assert second["settings"] == first["settings"]
    found = findings(tmp_path / "run")
    assert list(found["thresholds"]) == ["0.1"]
    decoders = [f["provenance"]["decoder"] for f in (found, findings(finished))]
    assert decoders[0] != decoders[1]


TABLES = (
    *("--num_examples=30", "--chunk_size=5", "--attacks=FGSM,PGD,UMIFGSM"),
    "--table=1,2,3,4,5,6",
)


@pytest.fixture(scope="module")
def tabled(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("tables") / "run"
    run(digits_file, workdir, *TABLES)
    return workdir


def test_all_tables_are_written_in_three_forms(tabled: Path) -> None:
    names = {path.name for path in (tabled / "tables").iterdir()}
    assert {"tables.html", "tables.json", "tables.md"} <= names
    text = (tabled / "tables/tables.md").read_text()
    for roman in ("I", "II", "III", "IV", "V", "VI"):
        assert f"Table {roman}. " in text
    rows = findings(tabled, "tables/tables.json")["rows"]
    assert {(row["attack"], row["variant"]) for row in rows} == {
        (attack, variant)
        for variant in ("paper", "integrated", "integrated_label")
        for attack in ("FGSM", "PGD", "UMIFGSM")
    }


def test_costly_attacks_meet_fewer_images_and_settings_are_told(
    digits_file: Path, tmp_path: Path
) -> None:
    few = ("--num_examples=9", "--costly=PGD", "--num_examples_costly=4")
    attacked = ("--table=1", "--attacks=FGSM,PGD", "--setting=PGD.nb_iter=2")
    run(digits_file, tmp_path / "run", *few, *attacked)
    found = findings(tmp_path / "run", "tables/tables.json")
    totals = {row["attack"]: row["success_trapped"]["total"] for row in found["rows"]}
    assert totals == {"FGSM": 9, "PGD": 4}
    assert {row["variant"] for row in found["rows"]} == {"paper"}
    assert found["provenance"]["attack settings"] == "digits, PGD.nb_iter=2"


def test_clean_accuracy_needs_no_attack(digits_file: Path, tmp_path: Path) -> None:
    run(digits_file, tmp_path / "run", "--table=2")
    assert findings(tmp_path / "run", "tables/tables.json")["rows"] == []
    assert "Accuracy of M" in (tmp_path / "run/tables/tables.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--dataset=dgits",), "data set 'dgits' was not found"),
        (("--attacks=FGSM,CW3",), "not CW3"),
        (("--preset=table9",), "--preset=table9 means nothing for digits"),
        (("--fpr=5",), "--fpr: expected a number above 0 and below 1, not 5"),
        (("--table=7",), "--table: expected one of 1, 2, 3, 4, 5, 6, not 7"),
        (("--table=1", "--fpr=0.1"), "these tables need --fpr=0.05 too"),
        (("--table=4", "--fpr=0.1"), "these tables need --fpr=0.005,0.05 too"),
        (("--fpr=0.00001",), r"`images`.*at least 99999 clean images"),
        (("--variant=hidden",), "--variant: expected one of paper, margin"),
    ],
)
def test_a_wrong_command_line_is_told_before_anything_is_attacked(
    arguments: tuple[str, ...], expected: str, digits_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(CommandLineError, match=expected):
        run(digits_file, tmp_path / "run", *arguments)
    assert not contents(tmp_path)


def kill_once(command: list[str], signum: int, records: Path) -> int:
    """Ends a run a while after it began to record; returns its exit code."""
    before = len(list(records.rglob("*.npz")))
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(records.rglob("*.npz"))) == before:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))
    if process.poll() is None:
        os.kill(process.pid, signum)
    return process.wait()


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_same_numbers(
    tabled: Path, digits_file: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    command = [sys.executable, str(Path(attractors.__file__)), "attack"]
    command += [f"--model={digits_file}", f"--workdir={workdir}", "--resume", *TABLES]
    ends = [
        kill_once(command, signum, workdir)
        for signum in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGINT)
    ]
    assert ends == [-signal.SIGKILL, 130, -signal.SIGKILL, 130]
    subprocess.run(command, check=True, capture_output=True)
    file = "tables/tables.json"
    assert findings(workdir, file) == findings(tabled, file)
