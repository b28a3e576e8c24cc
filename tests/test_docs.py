"""What the documentation promises about itself."""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# The others are looked up.
READ_FROM_START_TO_END = [
    page for page in PAGES if page.parent.name not in ("reference", "results")
]


_IMPORTED = re.compile(r"(?m)^ *from keras_traps import (\([^)]*\)|.*$)")


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
    made = runpy.run_path(str(ROOT / "docs" / "make_results.py"))
    for name in made["PAGES"]:
        assert (RESULTS / name).read_text("utf-8") == made["page"](name)


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


def tables(path: Path) -> dict[str, list[str]]:
    """Returns the rows of a page's tables by their first cells."""
    rows = re.findall(r"(?m)^\|.*\|$", path.read_text("utf-8"))
    return {row[0]: row[1:] for row in map(cells, rows)}


OTHERS = ("FeatureSqueezing", "MagNet", "Trapdoor")


def get_through(contender: str, level: str) -> float:
    """Returns what gets through a defence on MNIST, in per cent."""
    board = (
        "leaderboard_detectors_mnist" if contender in OTHERS else "leaderboard_mnist"
    )
    rows = json.loads((RESULTS / f"{board}.json").read_text("utf-8"))["rows"]
    (found,) = (row["levels"] for row in rows if row["contender"] == contender)
    # Who has all weights of a model without a detector follows its gradient.
    level = level if level in found else "gradients"
    return 100 * float(found[level]["any"]["0.05"]["value"])


def test_the_readmes_leaderboard_is_that_of_the_results() -> None:
    rows = tables(ROOT / "README.md")
    contenders = ("undefended", "adversarial", "traps", "luring-agreement")
    attackers = {
        "has a classifier of their own": "transfer",
        "asks for answers, hears of rejections": "labels",
        "sees outputs too": "scores",
        "follows the gradient of what is served": "gradients",
        "has all weights and the detector": "everything",
    }
    for attacker, level in attackers.items():
        found = [f"{get_through(one, level):.1f}" for one in contenders]
        # Those of others met fewer attacks.
        told = level not in ("transfer", "scores")
        found += [f"{get_through(one, level):.1f}" if told else "–" for one in OTHERS]
        assert rows[attacker] == found


def test_the_threat_models_numbers_are_those_of_the_results() -> None:
    rows = tables(ROOT / "docs/explanations/threat_model.md")
    contenders = ("undefended", "adversarial", "traps", "luring-target")
    attackers = {
        "has classifiers of their own": "transfer",
        "asks for answers 500 times, and hears of rejections": "labels",
        "sees outputs too": "scores",
        "follows the gradient, or what is extracted from it": "gradients",
        "has all weights and the detector": "everything",
    }
    for attacker, level in attackers.items():
        levels = [get_through(one, level) for one in (*contenders, "luring-agreement")]
        shown = [cell.strip("*") for cell in rows[attacker]]
        assert shown == [f"{each:.0f}" for each in levels]
    board = json.loads((RESULTS / "leaderboard_mnist.json").read_text("utf-8"))
    worst = {row["contender"]: best(row["levels"]) for row in board["rows"]}
    for defence, contender, level in (
        ("attractors, from weights and key", "traps", "everything"),
        ("attractors, from answers", "traps", "labels"),
        ("luring, M answers", "luring-target", "everything"),
        ("luring, both agree", "luring-agreement", "labels"),
        ("adversarial training", "adversarial", "gradients"),
    ):
        attack, through = worst[contender][level]
        told, share = rows[defence]
        assert told.startswith(attack)
        assert share == f"{100 * through:.0f} of 100"


def best(levels: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """Returns the attack of each level that most gets through by, and how much."""
    return {
        level: (found["worst"]["attack"], found["worst"]["through"])
        for level, found in levels.items()
    }


def test_lurings_table_is_that_of_the_results() -> None:
    page = ROOT / "docs/guides/luring.md"
    made = {row[0]: row[1:] for row in map(cells, lures(RESULTS / "README.md"))}
    for name, *shown in map(cells, lures(page)):
        (found,) = (made[each] for each in made if link(each) == link(name))
        # What stands between brackets is the paper's.
        ours = [re.sub(r" \(\d+\)", "", cell) for cell in shown]
        assert ours == [cell.replace("–", "") for cell in found]


def lures(path: Path) -> list[str]:
    """Returns the rows about tables of luring."""
    return re.findall(r"(?m)^\| \[.*luring_\w+\..*\|$", path.read_text("utf-8"))


def link(cell: str) -> str:
    (name,) = re.findall(r"(luring_\w+)\.", cell)
    return str(name)


def test_the_readmes_table_of_attacks_is_that_of_the_results() -> None:
    rows = tables(ROOT / "README.md")
    for place, name in enumerate(("cifar10", "mnist")):
        found = json.loads((RESULTS / f"tables_{name}.json").read_text("utf-8"))
        for row in found["rows"]:
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


def test_no_folder_imports_one_further_down_the_architectures_list() -> None:
    rows = tables(ROOT / "docs/architecture.md")
    folders = re.findall(r"`(?:keras_traps/)?(\w+)/`", " ".join(rows))
    below = {*folders}
    for folder in folders:
        below.remove(folder)
        for source in (ROOT / "keras_traps" / folder).rglob("*.py"):
            text = source.read_text("utf-8")
            used = re.findall(r"(?m)^ *(?:from|import) keras_traps\.(\w+)", text)
            used += re.findall(r"\w+", " ".join(_IMPORTED.findall(text)))
            assert not below & {*used}, source


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
