import json
from pathlib import Path
from typing import Any

import attractors
import pytest
import quickstart
import train

from keras_traps.attacks import PRESETS
from keras_traps.commands.command_line import CommandLineError


def findings(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "report/report.json").read_text())
    found["provenance"].pop("date")
    return found


@pytest.mark.slow
def test_smoke_writes_a_report_and_a_second_run_goes_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workdir = tmp_path / "new" / "run"
    flags = ("--smoke", "--num_examples=10", f"--workdir={workdir}")
    quickstart.main(flags)
    printed = capsys.readouterr().out
    assert "python recipes/attractors.py attack --dataset=digits" in printed
    assert f"{workdir / 'report' / 'report.html'}" in printed
    first = findings(workdir)
    assert {row["attack"] for row in first["rows"]} == {"FGSM", "PGD"}
    assert first["provenance"]["images attacked"] == 10

    monkeypatch.delattr(train, "main")
    quickstart.main(flags)
    assert findings(workdir) == first
    with pytest.raises(CommandLineError, match="epochs differ"):
        quickstart.main(["--num_examples=10", f"--workdir={workdir}"])
    with pytest.raises(CommandLineError, match="--all_attacks"):
        quickstart.main(["--smoke", "--all_attacks"])


def test_costly_attacks_are_run_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(train, "main", lambda _: None)
    monkeypatch.setattr(attractors, "main", asked.extend)
    for flags in ((), ("--all_attacks",)):
        quickstart.main([f"--workdir={tmp_path}", *flags])
    few, whole = (
        {*word.removeprefix("--attacks=").split(",")}
        for word in asked
        if word.startswith("--attacks=")
    )
    assert whole == {*PRESETS["digits"]}
    assert whole - few == {"UAP", "OM", "BPDA", "SPSA", "BLB", "CW2", "EAD"}
