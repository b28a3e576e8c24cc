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
import numpy as np
import pytest

from keras_traps.commands import trapping
from keras_traps.commands.command_line import CommandLineError
from keras_traps.datasets import load
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
    text = (finished / "report/report.json").read_text()
    command = json.loads(text)["provenance"]["command"]
    assert command.startswith("python recipes/attractors.py attack --model=digits.ker")
    # It holds no path of this machine.
    assert str(finished.parent) not in text
    assert str(Path(attractors.__file__).parent) not in text
    found = findings(finished)
    assert [(row["attack"], row["variant"]) for row in found["rows"]] == [
        ("FGSM", "paper")
    ]
    assert found["rows"][0]["settings"] == {"eps": 0.3}
    assert found["provenance"]["images attacked"] == 6
    assert found["provenance"]["classifier"] == weights_sha256(digits_classifier)


def test_a_directory_in_use_is_refused_before_any_work(
    finished: Path, digits_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trapping, "load_data", fail)
    with pytest.raises(CommandLineError, match="--resume"):
        run(digits_file, finished, *FEW)


def test_resuming_uses_what_is_there(
    finished: Path, digits_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, calibration = findings(finished), finished / "calibration.json"
    before = calibration.read_bytes()
    monkeypatch.setattr(trapping, "calibrate", fail)
    run(digits_file, finished, "--resume", *FEW)
    assert findings(finished) == first
    assert calibration.read_bytes() == before


def test_a_run_with_other_settings_is_refused_and_changes_nothing(
    finished: Path, digits_file: Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    (workdir / "calibration.json").unlink()
    before = contents(workdir)
    with pytest.raises(CommandLineError, match="chunk_size differ"):
        run(digits_file, workdir, "--resume", *FEW, "--chunk_size=3")
    assert contents(workdir) == before


def test_a_calibration_that_was_made_otherwise_is_refused(
    finished: Path, digits_file: Path, tmp_path: Path
) -> None:
    given = f"--calibration={finished / 'calibration.json'}"
    told = r"calibration\.json was made with --.*, not --"
    with pytest.raises(CommandLineError, match=f"{told}budget=0.4"):
        run(digits_file, tmp_path / "run", given, *FEW, "--budget=0.4")
    with pytest.raises(CommandLineError, match=f"{told}output=probabilities"):
        run(digits_file, finished, "--resume", *FEW, "--output=probabilities")


def test_a_calibration_is_used_for_another_key(
    finished: Path, digits_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trapping, "calibrate", fail)
    given, workdir = finished / "calibration.json", tmp_path / "run"
    flags = (f"--calibration={given}", "--public_key=1", "--fpr=0.1", *FEW)
    run(digits_file, workdir, *flags)
    first = json.loads(given.read_text())
    second = json.loads((workdir / "calibration.json").read_text())
    assert second["settings"] == first["settings"]
    # Another key is another decoder, and the secret one is in no file but its own.
    decoders = [findings(each)["provenance"]["decoder"] for each in (finished, workdir)]
    assert decoders[0] != decoders[1]
    secret = (finished / "key").read_text().strip()
    assert (finished / "key").stat().st_mode & 0o777 == 0o600
    for file in finished.rglob("*"):
        if file.is_file() and file.name != "key":
            assert secret.encode() not in file.read_bytes()
            assert bytes.fromhex(secret) not in file.read_bytes()
    assert not (workdir / "key").exists()
    assert list(findings(workdir)["thresholds"]) == ["0.1"]


TABLES = (
    "--public_key=0",
    *("--num_examples=20", "--chunk_size=5", "--attacks=FGSM,PGD"),
    *("--costly=PGD", "--num_examples_costly=10", "--setting=PGD.nb_iter=3"),
    "--table=1,2,3,4,5,6",
)


@pytest.fixture(scope="module")
def tabled(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("tables") / "run"
    run(digits_file, workdir, *TABLES)
    return workdir


def test_all_tables_are_written_and_costly_attacks_meet_fewer_images(
    tabled: Path,
) -> None:
    assert (tabled / "tables" / "tables.html").is_file()
    text = (tabled / "tables" / "tables.md").read_text()
    for roman in ("I", "II", "III", "IV", "V", "VI"):
        assert f"Table {roman}. " in text
    found = findings(tabled, "tables/tables.json")
    assert {
        (row["attack"], row["variant"], row["success_trapped"]["total"])
        for row in found["rows"]
    } == {
        (attack, variant, images)
        for variant in ("paper", "integrated", "integrated_label")
        for attack, images in {"FGSM": 20, "PGD": 10}.items()
    }
    assert found["provenance"]["attack settings"] == "digits, PGD.nb_iter=3"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--attacks=FGSM,CW3",), "not CW3"),
        (("--table=4", "--fpr=0.1"), "these tables need --fpr=0.005,0.05 too"),
        (("--fpr=0.00001",), r"`images`.*at least 99999 clean images"),
    ],
)
def test_a_wrong_command_line_is_told_before_anything_is_attacked(
    arguments: tuple[str, ...], expected: str, digits_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(CommandLineError, match=expected):
        run(digits_file, tmp_path / "run", *arguments)
    assert not contents(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*HDF5")
def test_a_model_of_grey_levels_gives_the_numbers_of_shares(
    digits_file: Path,
    digits_classifier: keras.Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = keras.Input((8, 8, 1))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    keras.Model(image, digits_classifier(scaled)).save(tmp_path / "grey.keras")
    both = (*FEW, "--attacks=PGD", "--public_key=3")
    run(digits_file, tmp_path / "plain", *both)
    with pytest.raises(CommandLineError, match=r"`bounds`.*bounds=\(0, 255\)"):
        run(tmp_path / "grey.keras", tmp_path / "grey", *both)
    capsys.readouterr()
    run(tmp_path / "grey.keras", tmp_path / "grey", *both, "--bounds=0,255")
    assert "are taken for logits.\n" in capsys.readouterr().out
    plain, grey = findings(tmp_path / "plain"), findings(tmp_path / "grey")
    assert len(plain["rows"]) == len(grey["rows"]) == 2
    for one, other in zip(plain["rows"], grey["rows"], strict=True):
        for name in ("attack", "success_classifier", "success_trapped", "detection"):
            assert other[name] == one[name]
        if one["success_trapped"]["count"]:
            assert other["mean_l2"] == pytest.approx(one["mean_l2"], rel=1e-3)
    assert grey["clean"] == plain["clean"]
    constants = json.loads((tmp_path / "grey" / "calibration.json").read_text())
    assert constants["settings"]["bounds"] == [0.0, 255.0]
    with pytest.raises(CommandLineError, match="--bounds=0,255, not --bounds=-1,1"):
        run(
            *(tmp_path / "grey.keras", tmp_path / "grey", *both, "--resume"),
            "--bounds=-1,1",
        )
    # It goes on without being told again.
    run(tmp_path / "grey.keras", tmp_path / "grey", *both, "--resume")
    assert findings(tmp_path / "grey")["rows"] == grey["rows"]


def test_what_does_not_belong_together_is_refused_before_any_work(
    digits_classifier: keras.Model, digits_file: Path, tmp_path: Path
) -> None:
    image = keras.Input((8, 8, 1))
    few = keras.Model(image, digits_classifier(image)[:, :7])
    few.save(tmp_path / "seven.keras")
    with pytest.raises(CommandLineError, match=r"`--model`.*10 classes.*of 7 classes"):
        run(tmp_path / "seven.keras", tmp_path / "run", *FEW)
    train = load("digits")
    shuffled = np.random.default_rng(0).permutation(train.labels)
    arrays: dict[str, Any] = {"x_train": train.pixels, "x_test": train.pixels}
    arrays["y_train"] = shuffled
    np.savez(tmp_path / "shuffled.npz", **arrays, y_test=shuffled)
    data = ("--dataset=shuffled", f"--data_dir={tmp_path}", "--preset=digits")
    with pytest.raises(CommandLineError, match=r"`labels`.*more often than chance"):
        run(digits_file, tmp_path / "run", *FEW, *data)
    assert not contents(tmp_path / "run")


def kill_once(command: list[str], signum: int, records: Path) -> tuple[int, str]:
    """Ends a run a while after it began to record; returns its code and last words."""
    before = len(list(records.rglob("*.npz")))
    told = records.with_suffix(".log")
    with told.open("w") as log:
        # Whoever runs the tests in the background has them ignore Ctrl-C.
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    while process.poll() is None and len(list(records.rglob("*.npz"))) == before:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))
    if process.poll() is None:
        os.kill(process.pid, signum)
    return process.wait(), told.read_text()[-3000:]


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_same_numbers(
    tabled: Path, digits_file: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    command = [sys.executable, str(Path(attractors.__file__)), "attack"]
    command += [f"--model={digits_file}", f"--workdir={workdir}", "--resume", *TABLES]
    for signum, expected in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        code, told = kill_once(command, signum, workdir)
        assert code == expected, told
    subprocess.run(command, check=True, capture_output=True)
    file = "tables/tables.json"
    assert findings(workdir, file) == findings(tabled, file)
