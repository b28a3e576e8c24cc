import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from keras_traps.commands import main
from keras_traps.commands.command_line import CommandLineError
from keras_traps.serving.selftest import SelfTest

ROOT = Path(__file__).parents[2]


def test_the_script_is_there_for_who_installs_the_package() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["keras-traps"].partition(":")
    assert getattr(importlib.import_module(module), name) is main.main


def test_the_help_tells_every_sub_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main.dispatch(["--help"])
    shown = capsys.readouterr().out
    for name in ("check", "trap", "evaluate", "export"):
        assert f"usage: keras-traps {name} " in shown


def test_a_sub_command_is_needed() -> None:
    with pytest.raises(CommandLineError, match="COMMAND"):
        main.dispatch([])


def test_help_comes_before_tensorflow() -> None:
    code = (
        "import sys; sys.argv = ['keras-traps', '--help']\n"
        "import atexit\n"
        "heavy = {'tensorflow', 'keras', 'numpy'}\n"
        "atexit.register(lambda: print(heavy & {*sys.modules}, file=sys.stderr))\n"
        "from keras_traps.commands.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "set()\n")


def test_evaluate_attacks_a_model_on_a_folder_of_images(
    digits_file: Path, digits_folder: str, tmp_path: Path
) -> None:
    main.dispatch(
        [
            *("evaluate", f"--model={digits_file}", f"--dataset={digits_folder}"),
            *("--preset=digits", "--attacks=FGSM", "--variant=paper"),
            *("--num_examples=6", f"--workdir={tmp_path}"),
        ]
    )
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["rows"][0]["attack"] == "FGSM"
    assert found["provenance"]["command"].startswith("keras-traps evaluate --model=")
    assert (
        f"--dataset=folder:{Path(digits_folder).name} "
        in found["provenance"]["command"]
    )


def test_export_publishes_what_trap_wrote(
    digits_file: Path,
    digits_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tested = SelfTest(live={"x": 0.0}, alone={"x": 0.0}, num_images=0)
    monkeypatch.setattr("keras_traps.serving.exporter.self_test", lambda *_: tested)
    trapped = tmp_path / "trapped.keras"
    main.dispatch(["trap", str(digits_file), digits_folder, f"--output={trapped}"])
    main.dispatch(
        [
            *("export", f"--model={trapped}", f"--dataset={digits_folder}"),
            *(f"--analyzer={trapped.with_name('analyzer.json')}",),
            f"--directory={tmp_path / 'digits'}",
        ]
    )
    graph = tmp_path / "digits" / "1" / "saved_model.pb"
    assert b"digit7" in graph.read_bytes()
