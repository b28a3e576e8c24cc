import dataclasses
import itertools
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_traps.attacks import preset
from keras_traps.evaluation.evaluate import Evaluation
from keras_traps.evaluation.metrics import CleanVariant, make_frame
from keras_traps.evaluation.records import Trial
from keras_traps.evaluation.render import (
    ReportPaths,
    interval,
    listing,
    measure,
    nominal,
    number,
    percent,
)
from keras_traps.evaluation.report import (
    write_luring_tables,
    write_report,
    write_tables,
    write_worst_case,
)
from keras_traps.evaluation.runner import WorstCase
from keras_traps.rates import Rate
from tests.evaluation.conftest import Undisturbed, make_record, make_run, store_of


class Page(HTMLParser):
    """A page whose elements are all closed and that needs nothing from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                assert (value or "").startswith(("#", "data:image/png;base64,"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def table(paths: ReportPaths, corner: str) -> dict[str, list[str]]:
    """The rows of the first table with this head, by their names."""
    lines = paths.markdown.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {corner} |"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    cells = [[cell.strip() for cell in row.split(" |")] for row in rows]
    return {row[0].removeprefix("| "): row[1:-1] for row in cells}


def written(rate: Rate) -> str:
    return f"{percent(rate.value)} ({interval(rate)})"


def test_the_report_shows_the_numbers_of_the_evaluation(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    found = undisturbed.found
    paths = write_report(found, tmp_path)
    pgd = next(row for row in found.rows if row["attack"] == "PGD")
    assert table(paths, "Attack")["PGD"] == [
        written(rate)
        for rate in (
            *(pgd["success_classifier"], pgd["success_trapped"]),
            pgd["detection"][0]["overall"],
        )
    ]
    cells = table(paths, "Attack | Kind")["PGD"]
    assert cells[:2] == ["UA", written(pgd["success_classifier"])]
    assert cells[3:6] == [
        written(rate) if rate.total else "n/a"
        for rate in (
            pgd["detection"][0][k] for k in ("detected", "recovered", "overall")
        )
    ]
    assert cells[-2:] == [measure(pgd["auc"], 3), "14"]
    clean = table(paths, "Quantity")["Accuracy of M"]
    assert clean[0] == percent(found.clean["accuracy_trapped"].value)
    worst = table(paths, "Attacks")["any of these losses"]
    assert worst[0] == written(found.worst_cases[-1]["misclassified"])
    markdown = paths.markdown.read_text(encoding="utf-8")
    headings = Page(paths.html).headings
    assert [line[3:] for line in markdown.splitlines() if line[:3] == "## "] == headings
    assert headings[0] == "Verdict"
    for name in paths.figures:
        assert name.read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name.name}" in markdown


def test_the_first_lines_tell_what_the_classifier_is_worth(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    found = undisturbed.found
    share = percent(found.clean["accuracy_classifier"].value)
    told = f"is right on {share} % of 500 clean test images; chance alone would be"
    guessing = {"accuracy_classifier": Rate(79, 500), "near_chance": True}
    poor = dataclasses.replace(found, clean={**found.clean, **guessing})
    for write in (write_report, lambda one, place: write_tables(one, [2], place)):
        assert told in first_lines(write(found, tmp_path))
        lines = first_lines(write(poor, tmp_path))
        assert "is right on 15.8 % of 500 clean test images" in lines
        assert "near chance. The classifier is not trained, or" in lines


def first_lines(paths: ReportPaths) -> str:
    lines = paths.markdown.read_text(encoding="utf-8").split("\n\n")
    assert lines[0].startswith("# ")
    return "\n".join(lines[:6])


def test_classes_are_called_by_their_names(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    names = tuple(f"sign-{number}" for number in range(10))
    found = dataclasses.replace(undisturbed.found, class_names=names)
    paths = write_report(found, tmp_path)
    shown = json.loads(paths.json.read_text())["examples"]
    pages = [each.read_text(encoding="utf-8") for each in (paths.markdown, paths.html)]
    for example in found.examples:
        real, said = names[example["label"]], names[example["predicted"]]
        for page in pages:
            assert f"{example['attack'] or 'Clean'}: {real} " in page
            assert f"read as {said}" in page
    assert [one["label_name"] for one in shown] == [
        names[one["label"]] for one in found.examples
    ]


def test_tables_have_the_papers_numbers_below_ours_and_json_is_strict(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    paper = {"detection": 0.98, "auc": 0.991, "recovery": None, "overall_asr": 0.02}
    rows = [{**row, "paper": paper} for row in undisturbed.found.rows]
    rows[-1]["auc"] = float("nan")
    found = dataclasses.replace(undisturbed.found, rows=rows)
    paths = write_tables(found, range(1, 7), tmp_path)
    assert [heading.split(".")[0] for heading in Page(paths.html).headings[:6]] == [
        f"Table {roman}" for roman in ("I", "II", "III", "IV", "V", "VI")
    ]
    below = table(paths, "Attack")["*paper*"]
    assert below == ["", "*–*", "*–*", "*98.0*", "*n/a*", "*2.0*", "*0.991*", ""]
    text = paths.json.read_text(encoding="utf-8")
    assert "NaN" not in text
    content = json.loads(text)
    assert content["rows"][-1]["auc"] is None
    # These names programs read.
    first = content["rows"][0]["detection"][0]["overall"]
    assert first.keys() == {"count", "total", "value", "interval"}
    assert [*content["clean"]["false_positives"]] == ["0.05", "0.005"]
    assert content["thresholds"]["0.05"].keys() == {"U", "L", "sigma0", "lead"}
    assert content["examples"][0].keys() == {
        *("outcome", "attack", "label", "predicted", "score", "flagged", "fired"),
        "recovered",
        *("label_name", "predicted_name", "recovered_name"),
    }
    plain_paths = write_tables(undisturbed.found, [1], tmp_path / "plain")
    assert "*paper*" not in table(plain_paths, "Attack")


@pytest.fixture
def unplotted(undisturbed: Undisturbed) -> Evaluation:
    """It has nothing to plot, which takes time."""
    nothing: dict[str, Any] = {"evidence": {}, "attacked_scores": {}}
    return dataclasses.replace(undisturbed.found, **nothing)


def test_examples_say_what_became_of_them(
    unplotted: Evaluation, tmp_path: Path
) -> None:
    outcomes: dict[str, dict[str, Any]] = {
        "| FGSM: 7 read as 3 | **Caught and recovered": {},
        "| FGSM: 12 read as 3 | **Caught, a wrong": {
            "outcome": "misread",
            "label": 12,
            "recovered": 2,
        },
        "| FGSM: 7 read as 3 | **Missed": {"outcome": "missed", "flagged": False},
        "| Clean: 7 read as 3 | **Clean, and": {"outcome": "clean", "attack": ""},
    }
    example: dict[str, Any] = {
        "outcome": "caught",
        "attack": "FGSM",
        "label": 7,
        "predicted": 3,
        "score": 4.56789,
        "flagged": True,
        "fired": ["C1", "C3"],
        "recovered": 7,
        "clean": np.full((2, 2, 1), 0.5, np.float32),
        "adversarial": np.full((2, 2, 1), 0.75, np.float32),
    }
    examples = [{**example, **changes} for changes in outcomes.values()]
    found = dataclasses.replace(unplotted, examples=examples)
    lines = write_report(found, tmp_path).markdown.read_text().splitlines()
    shown = [line for line in lines if " read as " in line]
    for line, outcome in zip(shown, outcomes, strict=True):
        title, _, verdict = outcome.partition("**")
        assert line.startswith(title)
        assert f"**{verdict}" in line
    assert "at most 0.25 per pixel, L2 0.50, drawn 2.0 times as large" in shown[0]
    assert "Analyzer: flagged by C1, C3, score 4.568" in shown[0]
    assert "Recovered: 7, the true class" in shown[0]
    assert "Analyzer: not flagged, score 4.568" in shown[2]


def test_a_text_from_outside_is_no_markup(
    unplotted: Evaluation, tmp_path: Path
) -> None:
    odd = "<script>alert(1)</script> | *bold* `code` & ä"
    found = dataclasses.replace(
        unplotted, dataset=odd, provenance={"command": odd, "more": {odd: 1.5}}
    )
    paths = write_report(found, tmp_path)
    markdown = paths.markdown.read_text(encoding="utf-8")
    assert "<script" not in paths.html.read_text(encoding="utf-8") + markdown
    assert Page(paths.html).headings[0] == "Verdict"
    assert r"\| \*bold\* \`code\` &amp; ä" in markdown


def test_warnings_stand_at_the_top_and_in_their_section(
    unplotted: Evaluation, tmp_path: Path
) -> None:
    rates = {0.05: Rate(50, 500), 0.005: Rate(3, 500)}
    clean = {**unplotted.clean, "false_positives": rates}
    found = dataclasses.replace(unplotted, warnings=["PGD is odd."], clean=clean)
    html = write_report(found, tmp_path).html.read_text()
    assert "reason for doubt in these numbers: 1 warning," in html
    assert html.count("PGD is odd.") == 1
    # So do false-positive rates beyond chance.
    assert "nominal rate of 5 % the analyzer flags more clean test images" in html
    assert "nominal rate of 0.5 % the analyzer flags" not in html


def test_the_worst_case_is_written_with_its_settings(tmp_path: Path) -> None:
    chosen = preset("digits", ["FGSM", "PGD"])
    tried, felled = {"FGSM": 20, "PGD": 12}, {"FGSM": 8, "PGD": 2}
    found = WorstCase("paper", tried, felled, Rate(10, 20))
    facts = {"command": "python recipes/x.py"}
    clean = {"accuracy_classifier": Rate(80, 500), "chance": 0.1, "near_chance": True}
    told: dict[str, Any] = {"clean": clean, "provenance": facts}
    told["warnings"] = ["Square got through."]
    paths = write_worst_case(found, chosen, tmp_path, fpr=0.05, **told)
    content = json.loads(paths.json.read_text())
    assert content["overall"]["value"] == 0.5
    assert (content["tried"], content["felled"]) == (tried, felled)
    assert content["attacks"]["FGSM"] == chosen[0].settings()
    assert (content["fpr"], content["provenance"]) == (0.05, facts)
    assert table(paths, "Attack")["PGD"][1:] == ["12", "2"]
    text = paths.markdown.read_text()
    assert "right on 16.0 % of 500 clean test images" in text
    assert "That is near chance." in text
    assert "unnoticed at 5 % FPR" in text
    assert "> **Note.** Square got through." in text
    assert content["warnings"] == told["warnings"]
    unwatched = write_worst_case(found, chosen, tmp_path, fpr=None, **told)
    assert "unnoticed" not in unwatched.markdown.read_text()


@pytest.fixture
def luring(tmp_path: Path) -> Any:
    right, wrong, some = [0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0], [0, 1, 2, 1, 2, 0]
    trial = Trial({"prob": 0.5}, images=4, standing=1, defended=2)
    preset = "luring_mnist_cpu"
    told = {"command": "python recipes/luring.py", "seed": 3, "preset": preset}
    cells = []
    for threat, variant, attack, target, augmented in (
        ("luring", "luring", "FGSM", right, wrong),
        ("luring", "ce", "FGSM", some, wrong),
        ("luring", "ce", "PGD", some, wrong),
        ("whitebox", "ce", "FGSM", wrong, right),
    ):
        run = make_run(
            f"{threat}-{variant}",
            attack,
            eps=0.3,
            settings={"eps": 0.3, "nb_iter": 7},
            about={"threat": threat, "variant": variant},
            trials=(trial,) if attack == "PGD" else (),
            provenance=told,
        )
        cells.append((run, make_record(target=target, augmented=augmented)))
    runs = [run for run, _ in cells]
    return runs, make_frame(runs, store_of(tmp_path / "work", cells))


CLEAN = [
    CleanVariant("target", Rate(98, 100), None, None, 1234, {"steps": 60}),
    CleanVariant("ce", Rate(90, 100), Rate(88, 100), Rate(89, 100), 12, {}),
]


STANDING = {"accuracy_classifier": Rate(98, 100), "chance": 0.1, "near_chance": False}
GIVEN: dict[str, Any] = {"standing": STANDING, "provenance": {}}


def test_luring_tables_show_the_rates_and_the_papers(
    luring: Any, tmp_path: Path
) -> None:
    runs, frame = luring
    paths = write_luring_tables("mnist", CLEAN, runs, frame, tmp_path, **GIVEN)
    assert "right on 98.0 % of 100 clean test images" in first_lines(paths)
    assert len(Page(paths.html).headings) == 5
    tabled = table(paths, "Attack, ε")["FGSM 0.3"]
    # C_E, then Luring: AC of M∘P, AC of M, DAC.
    assert [each.split(" (")[0] for each in tabled] == [
        *("0.0", "50.0", "50.0", "0.0", "100.0", "100.0", "6")
    ]
    models = table(paths, "Model")
    assert models["M"][:3] == [written(CLEAN[0].test), "–", "–"]
    assert models["*paper*"][0] not in ("", "*–*")
    text = paths.markdown.read_text()
    assert "AC\\_M: Luring is above C\\_E in 1 of 1 cells." in text
    assert "1 settings on 4 images: AC\\_M from 25.0 to 25.0" in text
    assert "Here \\`--nb\\_iter\\` made it 7 steps." in text
    content = json.loads(paths.json.read_text())
    assert content["cells"][0]["rates"]["ac_m"]["value"] == 1.0
    assert content["comparisons"][0]["baseline"] == "ce"
    assert content["provenance"]["attacks"] == {"1": "python recipes/luring.py"}
    assert content["provenance"]["attack seed"] == [3]


def test_luring_tables_need_no_attack(luring: Any, tmp_path: Path) -> None:
    _, frame = luring
    paths = write_luring_tables("digits", CLEAN, [], frame, tmp_path, **GIVEN)
    assert Page(paths.html).headings == ["Table 1. Clean test images", "Origin"]
    assert "*paper*" not in table(paths, "Model")


def test_numbers_are_written_for_people() -> None:
    # What is not quite all or nothing never looks so.
    shares = [0.1234, 0.0, 1.0, 0.0001, 0.9999, None, float("nan")]
    assert [percent(share) for share in shares] == [
        *("12.3", "0.0", "100.0", "< 0.1", "> 99.9", "n/a", "n/a")
    ]
    assert nominal(0.005) == "0.5 %"
    assert number(np.float32(0.25)) == "0.25"
    assert number({"a": [1, 2.5], "b": True}) == "a 1, 2.5, b True"
    assert listing(["A", "B", "C", "D", "E"], most=2) == "A, B and 3 more"
    assert (listing([]), listing(["A"])) == ("", "A")
