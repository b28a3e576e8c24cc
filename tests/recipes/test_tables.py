import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from absl import app, flags

from recipes import tables

RECIPE = Path(tables.__file__)
FEW = ("--num_examples=30", "--chunk_size=5", "--attacks=FGSM,PGD,UMIFGSM")


def run(*arguments: str) -> None:
    values = tables.define_flags(flags.FlagValues())
    tables.main(values(["tables", *arguments]), values)


def found(workdir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workdir / "tables/tables.json").read_text())
    for name in ("date", "command"):
        content["provenance"].pop(name)
    return content


@pytest.fixture(scope="module")
def model(
    digits_classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("models") / "digits.keras"
    digits_classifier.save(path)
    return path


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    run(f"--model={model}", f"--workdir={workdir}", *FEW)
    return workdir


def test_all_tables_are_written_in_three_forms(undisturbed: Path) -> None:
    names = sorted(path.name for path in (undisturbed / "tables").iterdir())
    assert names == ["tables.html", "tables.json", "tables.md"]
    text = (undisturbed / "tables/tables.md").read_text()
    for roman in ("I", "II", "III", "IV", "V", "VI"):
        assert f"## Table {roman}. " in text
    rows = found(undisturbed)["rows"]
    assert [(row["attack"], row["variant"]) for row in rows] == [
        (attack, variant)
        for variant in ("paper", "integrated", "integrated_label")
        for attack in ("FGSM", "PGD", "UMIFGSM")
    ]


def kill_once(command: list[str], after: float, records: Path) -> int:
    """Kills a run a while after it began to record; returns how it ended."""
    before = len(list(records.rglob("*.npz")))
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(records.rglob("*.npz"))) == before:
        time.sleep(0.02)
    time.sleep(after)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    return process.wait()


def test_a_run_that_is_killed_five_times_ends_with_the_same_numbers(
    undisturbed: Path, model: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    command = [sys.executable, str(RECIPE), f"--model={model}", f"--workdir={workdir}"]
    command += ["--resume", *FEW]
    moments = random.Random(7)

    ends = [
        kill_once(command, moments.uniform(0, 0.3), workdir / "records")
        for _ in range(5)
    ]

    assert ends == [-signal.SIGKILL] * 5
    done = list((workdir / "records").rglob("*.npz"))
    # 30 images by 5, three attacks, C and three variants: none of the kills came late.
    assert 5 <= len(done) < 72
    subprocess.run(command, check=True, capture_output=True)
    assert found(workdir) == found(undisturbed)


def test_dear_attacks_meet_fewer_images(model: Path, tmp_path: Path) -> None:
    run(
        f"--model={model}",
        f"--workdir={tmp_path / 'run'}",
        "--table=1",
        "--attacks=FGSM,PGD",
        "--dear=PGD",
        "--num_examples=9",
        "--num_examples_dear=4",
    )
    rows = found(tmp_path / "run")["rows"]
    totals = {row["attack"]: row["success_trapped"]["total"] for row in rows}
    assert totals == {"FGSM": 9, "PGD": 4}
    assert {row["variant"] for row in rows} == {"paper"}


def test_another_classifier_is_asked_where_it_recovers(
    model: Path, tmp_path: Path
) -> None:
    # One that names a single class, whatever it sees.
    constant = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, kernel_initializer="zeros"),
        ]
    )
    constant.set_weights([np.zeros((64, 10)), 5.0 * np.eye(10)[3]])
    constant.save(tmp_path / "constant.keras")
    run(
        f"--model={model}",
        f"--recovery_model={tmp_path / 'constant.keras'}",
        f"--workdir={tmp_path / 'run'}",
        "--table=2",
        "--table=5",
        "--integrated=integrated_difference",
        "--recovery_weight=0.001",
        "--attacks=FGSM",
        "--num_examples=60",
        "--chunk_size=60",
    )
    content = found(tmp_path / "run")
    told = content["provenance"]
    assert told["recovery classifier"] not in (None, told["classifier"])
    text = (tmp_path / "run/tables/tables.md").read_text()
    assert "Recovery classifier right where C is" in text
    right_too = found(tmp_path / "run")["clean"]["recovery_classifier"]
    # One digit of ten is a 3.
    assert 0.06 < right_too["value"] < 0.14
    assert "another classifier's counts here in its place" in text
    # What is flagged is a 3: there are few among the first 60 digits.
    (row,) = content["rows"]
    success = row["success_trapped"]
    assert success["count"] > 0.6 * success["total"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("none.keras", "--recovery_model names no file"),
        ("", "--recovery_model names no file"),
        ("nine.keras", "--recovery_model cannot be asked: .*nine.keras .*shapes"),
    ],
)
def test_one_that_cannot_be_asked_is_told_before_anything_is_attacked(
    model: Path,
    tmp_path: Path,
    given: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    nine = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(9)]
    keras.Sequential(nine).save("nine.keras")
    with pytest.raises(app.UsageError, match=expected):
        run(
            f"--model={model}",
            f"--recovery_model={given}",
            "--workdir=run",
            "--integrated=integrated_depth",
        )
    assert not [found for found in Path("run").rglob("*") if found.is_file()]


def test_settings_other_than_the_presets_are_taken(model: Path, tmp_path: Path) -> None:
    run(
        f"--model={model}",
        f"--workdir={tmp_path / 'run'}",
        "--table=1",
        "--attacks=FGSM,PGD",
        "--num_examples=4",
        # One of these alone is out of range.
        "--setting=PGD.eps=0.01",
        "--setting=PGD.eps_iter=0.005",
        "--setting=PGD.nb_iter=3",
        "--setting=PGD.abort_early=true",
    )
    content = found(tmp_path / "run")
    by_attack = {row["attack"]: row["settings"] for row in content["rows"]}
    assert by_attack["FGSM"]["eps"] == 0.3
    assert (by_attack["PGD"]["nb_iter"], by_attack["PGD"]["abort_early"]) == (3, True)
    told = content["provenance"]["attack settings"]
    changes = ["eps=0.01", "eps_iter=0.005", "nb_iter=3", "abort_early=true"]
    assert told == ", ".join(["digits", *(f"PGD.{change}" for change in changes)])


def test_clean_accuracy_needs_no_attack(model: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    run(f"--model={model}", f"--workdir={workdir}", "--table=2")
    assert found(workdir)["rows"] == []
    assert not list((workdir / "records").rglob("*.npz"))
    assert "Accuracy of M" in (workdir / "tables/tables.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--workdir=run",), "--model and --workdir are required"),
        (
            ("--model=m.keras", "--workdir=run", "--dataset=svhn_cropped"),
            "--dataset must be one of cifar10, digits, mnist. Received: svhn_cropped",
        ),
        (
            ("--model=m.keras", "--workdir=run", "--recovery_model=m.keras"),
            "--recovery_model is asked by integrated_difference and integrated_depth "
            "alone. Received: --recovery_model=m.keras to attack paper, integrated, "
            "integrated_label",
        ),
        (
            ("--model=m.keras", "--workdir=run", "--recovery_model=m", "--table=2"),
            "--recovery_model is asked by .* Received: --recovery_model=m to attack "
            "nothing",
        ),
        (
            ("--model=m.keras", "--workdir=run", "--dear=JSMA,CW3"),
            "--dear must be of .*JSMA.* Received: CW3",
        ),
        *(
            (
                (
                    "--model=m.keras",
                    "--workdir=run",
                    "--attacks=PGD",
                    f"--setting={it}",
                ),
                rf"--setting must be ATTACK\.NAME=VALUE, .*\(PGD\)\. Received: {it} ",
            )
            for it in (
                "FGSM.eps=0.1",
                "PGD.nb_iter",
                "PGD.nb_iter=some",
                "PGD.steps=3",
                "PGD.nb_iter=0",
                "PGD",
            )
        ),
        *(
            (
                ("--model=m.keras", "--workdir=run", f"--table={table}", *rates),
                f"--table={table} needs --fpr={needed}, as in the paper. Received: "
                f"{' '.join(rates)}",
            )
            for table, rates, needed in (
                (1, ("--fpr=0.1", "--fpr=0.005"), "0.05"),
                (3, ("--fpr=0.1",), "0.05"),
                (5, ("--fpr=0.01",), "0.05"),
                (6, ("--fpr=0.3",), "0.05"),
                (4, ("--fpr=0.05",), "0.005"),
                (4, ("--fpr=0.1",), "0.05 --fpr=0.005"),
            )
        ),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(app.UsageError, match=expected):
        run(*arguments)


@pytest.mark.parametrize("argument", ["--table=0", "--table=7", "--preset=fast"])
def test_a_flag_out_of_range_is_told(argument: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError):
        run(argument)
