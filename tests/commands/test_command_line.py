import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import attractors
import export
import figure
import luring
import pytest
import quickstart
import robustness
import train

from keras_traps.commands import command_line
from keras_traps.commands import export as exported
from keras_traps.commands.command_line import CommandLineError, Parser


def parsed(*argv: str) -> dict[str, Any]:
    parser = Parser("Tries flags.", prog="try.py")
    parser.flag("name", "A name.")
    parser.flag("count", "How many.", command_line.count, default=2)
    parser.flag("seed", "A seed.", command_line.whole)
    parser.flag("part", "A part.", command_line.number(at_least=0.0, below=1.0))
    parser.flag("rates", "Rates.", command_line.share, default=(0.05,), several=True)
    parser.flag("colour", "A colour.", options=("red", "green"), several=True)
    parser.flag("file", "A file.", command_line.file)
    parser.flag("bounds", "A range.", command_line.bounds)
    parser.switch("fast", "Hurry.")
    return vars(parser.parse(argv))


def test_what_is_not_given_has_its_default() -> None:
    assert parsed() == {
        "name": None,
        "count": 2,
        "seed": None,
        "part": None,
        "rates": (0.05,),
        "colour": None,
        "file": None,
        "bounds": None,
        "fast": False,
        "command_line": ("try.py",),
    }


def test_several_values_are_repeated_or_have_commas_and_replace_the_default() -> None:
    found = parsed("--rates=0.1,0.2", "--colour=red", "--rates=0.3", "--colour=green")
    assert found["rates"] == (0.1, 0.2, 0.3)
    assert found["colour"] == ("red", "green")
    assert parsed("--part=0")["part"] == 0.0
    assert parsed("--bounds=-1,1")["bounds"] == (-1.0, 1.0)
    # Also where they say what the default says.
    assert parsed("--rates=0.05", "--rates=0.05")["rates"] == (0.05, 0.05)


RANGE = "expected the least and the largest value of a pixel, as 0,255"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--bounds=255", f"--bounds: {RANGE}, not 255"),
        ("--bounds=1,0", f"--bounds: {RANGE}, not 1,0"),
        ("--bounds=0,inf", f"--bounds: {RANGE}, not 0,inf"),
        ("--count=0", "--count: expected an integer of at least 1, not 0"),
        ("--count=2.0", "--count: expected an integer of at least 1, not 2.0"),
        ("--rates=0.1,nan", "--rates: expected a number above 0 and below 1, not nan"),
        ("--part=1", "--part: expected a number of at least 0 and below 1, not 1"),
        ("--colour=red,blue", "--colour: expected one of red, green, not blue"),
        ("--file=none", "--file: there is no file none"),
        ("--fas", "unrecognized arguments: --fas"),
    ],
)
def test_what_a_flag_cannot_be_is_told(argument: str, told: str) -> None:
    with pytest.raises(CommandLineError) as caught:
        parsed(argument)
    assert str(caught.value).endswith(told)


def test_errors_within_are_told_in_one_line() -> None:
    told = pytest.raises(CommandLineError, match=r"^--model: one two$")
    with told, command_line.refusing("--model"):
        raise FileNotFoundError("one\n  two")
    # A fault of ours keeps its traceback.
    with pytest.raises(ZeroDivisionError), command_line.refusing():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (CommandLineError("no such thing"), 2, "try.py: no such thing (see --help)\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted. Go on by the same command with --r"),
        (None, 0, ""),
    ],
)
def test_a_script_ends_in_one_line_and_a_code(
    error: BaseException | None,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main(argv: Any) -> None:
        assert argv == ["--x"]
        if error is not None:
            raise error

    monkeypatch.setattr(sys, "argv", ["recipes/try.py", "--x"])
    with pytest.raises(SystemExit) as ended:
        command_line.run(main)
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(told)


def test_an_interrupt_that_becomes_another_error_is_still_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("an op that calls Python") from error

    monkeypatch.setattr(sys, "argv", ["recipes/try.py"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            command_line.run(main)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("\nInterrupted.")


def test_what_flags_may_be_is_what_the_package_knows() -> None:
    from keras_traps.evaluation.runner import EngineName
    from keras_traps.evaluation.subjects import Threat, Variant
    from keras_traps.luring.losses import LuringLoss
    from keras_traps.luring.schedules import LURE_RECIPES
    from keras_traps.luring.schedules import Variant as Baseline
    from keras_traps.models.outputs import Output
    from keras_traps.serving import Deploy, Format, Signature

    assert get_args(Output) == command_line.OUTPUTS
    assert get_args(Variant) == command_line.VARIANTS
    assert get_args(EngineName) == command_line.ENGINES
    assert get_args(Threat) == luring.THREATS
    assert get_args(LuringLoss) == luring.LOSSES
    assert get_args(Baseline) == luring.BASELINES
    assert set(LURE_RECIPES) == set(luring.DATASETS)
    assert get_args(Signature) == exported.SIGNATURES
    assert get_args(Deploy) == exported.DEPLOYS
    assert get_args(Format) == exported.FORMATS


SCRIPTS = (attractors, export, figure, quickstart, robustness, train, luring)


def test_the_help_tells_the_flags_of_every_sub_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for script in SCRIPTS:
        with pytest.raises(SystemExit, match=r"^0$"):
            script.main(["--help"])
    flags = {"--stage", "--eps", "--packed", "--output"}
    assert flags <= {*capsys.readouterr().out.split()}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_before_tensorflow(script: Any) -> None:
    path = Path(script.__file__)
    code = (
        f"import atexit, runpy, sys; sys.argv = ['{path.name}', '--help']\n"
        f"sys.path[0] = '{path.parent}'\n"
        "heavy = {'tensorflow', 'keras', 'pandas'}\n"
        "atexit.register(lambda: print(heavy & {*sys.modules}, file=sys.stderr))\n"
        f"runpy.run_path('{path}', run_name='__main__')"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = os.times()
    assert (done.returncode, done.stderr) == (0, "set()\n")
    used = after.children_user - before.children_user
    assert used + after.children_system - before.children_system < 1
