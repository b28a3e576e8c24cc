"""Commands in the documentation are ones that there are, with flags that they take."""

import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from absl import flags

from keras_traps.commands import main
from keras_traps.commands.command_line import Flags, Parser
from keras_traps.serving.client import __main__ as client

ROOT = Path(__file__).parents[1]
# Tables of results tell how they were made, by the recipes of their day.
PAGES = [
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if page.parent.name != "results" or page.name == "README.md"
]
KINDS = ("python", "keras-traps", "make", "pip")


class ParsedError(Exception):
    """A command line that was understood, and no more done about it."""


def shown(text: str) -> Iterator[str]:
    """Yields what blocks of commands hold, and what stands between backticks."""
    for block in re.findall(r"(?ms)^```console\n(.*?)^```$", text):
        yield from block.replace("\\\n", " ").splitlines()
    text = re.sub(r"(?ms)^```.*?^```$", "", text)
    for command in re.findall(rf"`((?:{'|'.join(KINDS)})\s[^`]+)`", text):
        # What is cut short is no command yet.
        if not command.endswith(" ..."):
            yield command


def documented() -> Iterator[str]:
    for page in PAGES:
        yield from shown(page.read_text("utf-8"))
    for source in (*ROOT.glob("recipes/*.py"), *ROOT.glob("benchmarks/*.py")):
        told = re.findall(r"(?m)^    python (?:.*\\\n)*.*$", source.read_text("utf-8"))
        yield from (each.replace("\\\n", " ") for each in told)


def words(command: str) -> tuple[str, ...]:
    return tuple(shlex.split(command, comments=True))


COMMANDS = sorted({words(each) for each in documented()} - {()})


def python() -> list[tuple[str, ...]]:
    return [each for each in COMMANDS if each[0] == "python"]


def of(*first: str) -> Any:
    found = [each for each in COMMANDS if each[: len(first)] == first]
    assert found
    return pytest.mark.parametrize("command", found, ids=" ".join)


@pytest.fixture
def parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops whatever runs a command line as soon as that was understood."""
    monkeypatch.chdir(tmp_path)
    parse = Parser.parse

    def parse_alone(self: Parser, argv: list[str]) -> Flags:
        raise ParsedError(parse(self, argv))

    def ask(*_: Any, **__: Any) -> NoReturn:
        raise ParsedError

    monkeypatch.setattr(Parser, "parse", parse_alone)
    monkeypatch.setattr(client, "Client", ask)


def make_files(argv: tuple[str, ...]) -> None:
    """Makes the files that a command is given."""
    line = re.sub(r"(:luring:\w+)", r"\1/target.keras \1/lure.keras", " ".join(argv))
    folder = r"((?:--detector=|:detector:)[\w/]+)"
    parts = r"\1/about.json \1/detector.json \1/classifier.keras"
    line = re.sub(folder, parts, line)
    for named in re.findall(r"[\w./]+\.(?:keras|npz|json)", line):
        Path(named).parent.mkdir(parents=True, exist_ok=True)
        Path(named).touch()


def test_there_is_no_command_that_no_test_here_looks_at() -> None:
    assert {command[0] for command in COMMANDS} == set(KINDS)
    run = " ".join(each[1] if each[1] != "-m" else each[2] for each in python())
    known = r"recipes/\w+\.py|benchmarks\.\w+|keras_traps\.serving\.client"
    assert {*re.sub(known, "", run).split()} == {"docs/make_results.py"}


@pytest.mark.parametrize(
    "command",
    [each for each in python() if each[1].startswith("recipes/")],
    ids=" ".join,
)
def test_a_recipe_takes_the_flags_it_is_shown_with(
    command: tuple[str, ...], parsed: None
) -> None:
    _, recipe, *argv = command
    make_files(command)
    with pytest.raises(ParsedError):
        importlib.import_module(Path(recipe).stem).main(argv)


@of("keras-traps")
def test_keras_traps_takes_the_flags_it_is_shown_with(
    command: tuple[str, ...], parsed: None
) -> None:
    make_files(command)
    argv = list(command[1:])
    # A sub-command that is named alone is named, not run.
    argv = [*argv, "--help"] if len(argv) == 1 else argv
    with pytest.raises((ParsedError, SystemExit)) as stopped:
        main.dispatch(argv)
    assert getattr(stopped.value, "code", 0) == 0


@of("python", "-m", "keras_traps.serving.client")
def test_the_client_takes_the_flags_it_is_shown_with(
    command: tuple[str, ...], parsed: None
) -> None:
    with pytest.raises(ParsedError):
        client.main(command[3:])


@pytest.mark.parametrize(
    "command",
    [each for each in python() if each[2:] and each[2].startswith("benchmarks.")],
    ids=" ".join,
)
def test_a_benchmark_takes_the_flags_it_is_shown_with(
    command: tuple[str, ...],
) -> None:
    _, _, name, *argv = command
    values = importlib.import_module(name).define_flags(flags.FlagValues())
    assert values([name, *argv]) == [name]


@of("make")
def test_make_has_the_target(command: tuple[str, ...]) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"(?m)^{command[1]}:", makefile)
    for setting in command[2:]:
        assert f"$({setting.partition('=')[0]}:" in makefile


@of("pip")
def test_what_is_installed_has_the_extras(command: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extras in re.findall(r"^\.\[(.*)\]$", "\n".join(command), re.MULTILINE):
        assert {*extras.split(",")} <= project["optional-dependencies"].keys()
