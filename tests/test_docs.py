"""What the documentation promises about itself."""

import importlib
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from keras_traps.commands.command_line import Flags, Parser

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
READ_FROM_START_TO_END = [ROOT / "README.md", *sorted((ROOT / "docs/guides").iterdir())]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def prose(path: Path) -> str:
    """Returns a page without code, tables and addresses."""
    text = path.read_text("utf-8")
    text = re.sub(r"(?ms)^( *)```.*?^\1```$", "", text)
    text = re.sub(r"(?m)^ *\|.*$", "", text)
    text = re.sub(r"(?m)^#.*$", "", text)
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)


def sentences(path: Path) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s", prose(path)):
        for found in re.split(r"(?<=[.!?:;])[)*_]*\s+", paragraph):
            yield " ".join(found.split())


def test_the_page_of_results_is_made_of_the_files_beside_it() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_results.py"))["page"]
    assert (RESULTS / "README.md").read_text("utf-8") == page()


def test_results_are_few_and_small() -> None:
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert len(files) <= 60
    assert sum(path.stat().st_size for path in files) <= 4 * 2**20
    # The lines between the columns of a table are no words.
    words = (RESULTS / "README.md").read_text("utf-8").replace("|", " ").split()
    assert len(words) <= 1500


def test_the_readme_is_read_in_five_minutes() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert len(prose(ROOT / "README.md").split()) <= 1000
    outside = re.sub(r"(?m)^\|.*$", "", re.sub(r"(?ms)^```.*?^```$", "", text))
    outside = re.sub(r"\]\([^)]*\)", "]", outside)
    assert len(re.findall(r"(?<![\w-])\d+(?:[.,]\d+)*", outside)) <= 60


def test_the_readmes_tables_are_those_of_the_results() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    rows = {row[0]: row[1:] for row in map(cells, re.findall(r"(?m)^\|.*\|$", text))}
    board = json.loads((RESULTS / "leaderboard_mnist.json").read_text("utf-8"))
    found = {row["contender"]: row["levels"] for row in board["rows"]}
    contenders = ("undefended", "adversarial", "traps", "luring-agreement")
    attackers = {
        "has a classifier of their own": "transfer",
        "asks for answers, hears of rejections": "labels",
        "sees outputs too": "scores",
        "follows the gradient of what is served": "gradients",
        "has all weights and the detector": "everything",
    }
    for attacker, level in attackers.items():
        # Who has all weights of a model without a detector follows its gradient.
        levels = [
            found[one].get(level, found[one]["gradients"])["any"]["0.05"]["value"]
            for one in contenders
        ]
        assert rows[attacker] == [f"{100 * value:.1f}" for value in levels]
    for place, name in enumerate(("cifar10", "mnist")):
        tables = json.loads((RESULTS / f"tables_{name}.json").read_text("utf-8"))
        for row in tables["rows"]:
            if row["variant"] != "paper":
                continue
            (told,) = (
                shown[place]
                for attacks, shown in rows.items()
                if row["attack"] in re.findall(r"\w+", attacks)
                and len(shown) == 2
                and "," in shown[0]
            )
            rates = [f"{100 * one['overall']['value']:.1f}" for one in row["detection"]]
            assert told == ", ".join(rates)


def test_the_changelog_is_short() -> None:
    assert len((ROOT / "CHANGELOG.md").read_text("utf-8").splitlines()) <= 60


@pytest.mark.parametrize("path", READ_FROM_START_TO_END, ids=name)
def test_no_sentence_has_to_be_read_twice(path: Path) -> None:
    long = [each for each in sentences(path) if len(each.split()) > 35]
    assert not long


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_what_a_page_links_to_is_there(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        file, _, part = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if part:
            titles = re.findall(r"(?m)^#+ (.*)$", target.read_text("utf-8"))
            slugs = [
                re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles
            ]
            assert part in slugs, link


class ParsedError(Exception):
    """A command line that was understood, and no more done about it."""


def commands() -> Iterator[str]:
    for page in PAGES:
        if RESULTS not in page.parents:
            for block in re.findall(
                r"(?ms)^```console\n(.*?)^```$", page.read_text("utf-8")
            ):
                yield from block.replace("\\\n", " ").splitlines()
    for recipe in sorted((ROOT / "recipes").glob("*.py")):
        told = re.findall(
            r"(?m)^    python recipes/(?:.*\\\n)*.*$", recipe.read_text("utf-8")
        )
        yield from (each.replace("\\\n", " ").strip() for each in told)


@pytest.mark.parametrize(
    "command", [each for each in commands() if each.startswith("python recipes/")]
)
def test_a_recipe_takes_the_flags_it_is_shown_with(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, recipe, *argv = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    # The files that it is given are there.
    for named in re.findall(r"[\w./]+\.(?:keras|npz|json)", " ".join(argv)):
        Path(named).parent.mkdir(parents=True, exist_ok=True)
        Path(named).touch()
    parse = Parser.parse

    def parse_alone(self: Parser, argv: list[str]) -> Flags:
        raise ParsedError(parse(self, argv))

    monkeypatch.setattr(Parser, "parse", parse_alone)
    with pytest.raises(ParsedError):
        importlib.import_module(Path(recipe).stem).main(argv)
