import json
import sys
from pathlib import Path
from typing import Any

import pytest
from absl import app, flags

from keras_traps.attacks import PRESETS, iterative, single_step
from keras_traps.models import digits_cnn
from recipes import quickstart


def run(*arguments: str) -> None:
    values = quickstart.define_flags(flags.FlagValues())
    quickstart.main(values(["quickstart", *arguments])[:1], values)


def fail(*_: Any, **__: Any) -> None:
    raise AssertionError("this was done already")


def findings(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "report/report.json").read_text())
    found["provenance"].pop("date")
    return found


def test_smoke_writes_a_report_and_a_second_run_goes_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workdir = tmp_path / "new" / "run"
    flags_given = ("--smoke", "--num_examples=10", f"--workdir={workdir}")
    script = str(tmp_path / "recipes" / "quickstart.py")
    monkeypatch.setattr(sys, "argv", [script, *flags_given])

    run(*flags_given)

    printed = capsys.readouterr().out
    assert "fools C" in printed
    for attack in ("FGSM", "PGD"):
        (line,) = [text for text in printed.splitlines() if f"  {attack}" in text]
        assert line.count("%") == 5 or "-" in line
    assert f"{workdir / 'report' / 'report.html'}" in printed
    first = findings(workdir)
    assert {row["attack"] for row in first["rows"]} == {"FGSM", "PGD"}
    assert first["provenance"]["images attacked"] == 10
    # Paths say nothing to a reader on another machine.
    assert str(tmp_path) not in json.dumps(first)

    monkeypatch.setattr(quickstart, "train", fail)
    monkeypatch.setattr(single_step.FGSM, "perturb", fail)
    monkeypatch.setattr(iterative.PGD, "perturb", fail)
    run(*flags_given)
    assert findings(workdir) == first


class StoppedError(Exception):
    """Raised in place of the evaluation."""


@pytest.mark.parametrize(
    ("flag", "missing"),
    [
        ("--noall_attacks", {"UAP", "OM", "BPDA", "SPSA", "BLB", "CW2", "EAD"}),
        ("--all_attacks", set()),
    ],
)
def test_dear_attacks_are_run_where_they_are_asked_for(
    flag: str, missing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def stop(*arguments: Any, **_: Any) -> None:
        asked.extend(attack.name for attack in arguments[3])
        raise StoppedError

    monkeypatch.setattr(quickstart, "train", lambda *_, **__: None)
    monkeypatch.setattr(quickstart, "evaluate", stop)
    with pytest.raises(StoppedError):
        run(flag, f"--workdir={tmp_path}")
    assert asked == [name for name in PRESETS["digits"] if name not in missing]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("--smoke", "--nosmoke", "with epochs 3, seed 0; asked for are epochs 20, "),
        ("--nosmoke", "--smoke", "with epochs 20, seed 0; asked for are epochs 3, "),
        ("--seed=0", "--seed=1", "asked for are epochs 20, seed 1"),
    ],
)
def test_a_classifier_that_was_trained_otherwise_is_refused(
    first: str,
    second: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise StoppedError

    monkeypatch.setattr(quickstart, "train", lambda *_, **__: None)
    monkeypatch.setattr(quickstart, "evaluate", stop)
    for _ in range(2):  # The second run goes on from the first.
        with pytest.raises(StoppedError):
            run(first, f"--workdir={tmp_path}")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(app.UsageError, match=told):
        run(second, f"--workdir={tmp_path}")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_classifier_that_tells_nothing_of_its_training_is_refused(
    tmp_path: Path,
) -> None:
    digits_cnn().save(tmp_path / "classifier.keras")
    with pytest.raises(app.UsageError, match="with what it does not tell"):
        run(f"--workdir={tmp_path}")


def test_two_attacks_and_all_of_them_are_not_asked_for_at_once(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    with pytest.raises(app.UsageError, match="--all_attacks"):
        run("--smoke", "--all_attacks", f"--workdir={workdir}")
    assert not workdir.exists()


def test_left_overs_are_told_before_anything_is_done(tmp_path: Path) -> None:
    values = quickstart.define_flags(flags.FlagValues())
    workdir = tmp_path / "run"
    left = values(["quickstart", f"--workdir={workdir}", "digits"])
    with pytest.raises(app.UsageError, match=r"Expected flags only\. Received: digits"):
        quickstart.main(left, values)
    assert not workdir.exists()


@pytest.mark.parametrize("argument", ["--num_examples=0", "--seed=-1"])
def test_a_flag_out_of_range_is_told(argument: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError):
        run("--smoke", argument)
