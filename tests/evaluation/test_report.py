import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_traps.attacks import preset
from keras_traps.evaluation.metrics import CleanVariant, make_frame
from keras_traps.evaluation.records import Trial
from keras_traps.evaluation.render import (
    listing,
    measure,
    nominal,
    number,
    percent,
    plain,
    rate_cell,
)
from keras_traps.evaluation.report import (
    write_luring_tables,
    write_report,
    write_tables,
    write_worst_case,
)
from keras_traps.evaluation.runner import WorstCase
from keras_traps.luring.metrics import luring_metrics
from keras_traps.rates import Rate
from tests.evaluation.conftest import Undisturbed, make_record, make_run, store_of


class Page(HTMLParser):
    """A page's headings, tables of texts, and what it needs from elsewhere."""

    VOID = frozenset({"meta", "img", "br", "source", "link", "col"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.links += [v or "" for k, v in attrs if k in ("src", "srcset", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        elif {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.strip()


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    # Nothing outside the page is asked for, and within it nothing is missing.
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    return page


def table(page: Page, corner: str) -> dict[str, list[str]]:
    """The rows of the first table with this head, by their names."""
    rows = next(rows for rows in page.tables if rows[0][0] == corner)
    return {row[0]: row[1:] for row in rows[1:]}


def test_the_report_shows_the_numbers_of_the_evaluation(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    found = undisturbed.found
    paths = write_report(found, tmp_path)
    page, markdown = read(paths.html), paths.markdown.read_text(encoding="utf-8")
    assert page.headings == [
        "Summary",
        "Provenance",
        "Clean images",
        "Attacks on the trapped model",
        "Attacks on the integrated model",
        "How far this rests on the attacker's loss",
        "Worst case per image",
        "Calibration and thresholds",
        "Warnings, notes and settings",
        "Pictures",
    ]
    pgd = next(row for row in found.rows if row["attack"] == "PGD")
    cells = table(page, "Attack")["PGD"]
    assert cells[0] == "UA"
    assert cells[1] == percent(pgd["success_classifier"].value)
    for text, what in zip(
        cells[3:6], ("detected", "recovered", "overall"), strict=True
    ):
        expected = percent(pgd["detection"][0][what].value)
        assert text.endswith(expected)
        assert expected in markdown
    assert cells[-2:] == [measure(pgd["auc"], 3), "14"]
    clean = table(page, "Quantity")["Accuracy of M"]
    assert clean[0] == percent(found.clean["accuracy_trapped"].value)
    worst = table(page, "Attacks")["any of these losses"]
    assert worst[0].endswith(percent(found.worst_cases[-1]["misclassified"].value))
    for name in paths.figures:
        assert name.read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name.name}" in markdown
    assert "{{" not in markdown
    assert "\n\n\n" not in markdown


def test_json_is_strict_and_keeps_the_names_that_programs_read(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    found = undisturbed.found
    rows = [{**found.rows[0], "auc": float("nan")}, *found.rows[1:]]
    odd = dataclasses.replace(found, rows=rows)

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    text = write_report(odd, tmp_path).json.read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=refuse)
    assert content["rows"][0]["auc"] is None
    first = content["rows"][0]["detection"][0]["overall"]
    assert first.keys() == {"count", "total", "value", "interval"}
    assert [*content["clean"]["false_positives"]] == ["0.05", "0.005"]
    assert content["thresholds"]["0.05"].keys() == {"U", "L", "sigma0"}
    assert content["examples"][0].keys() == {
        *("attack", "label", "predicted", "score", "flagged", "fired", "recovered")
    }


def test_the_papers_numbers_stand_below_ours(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    paper = {"detection": 0.98, "auc": 0.991, "recovery": None, "overall_asr": 0.02}
    rows = [{**row, "paper": paper} for row in undisturbed.found.rows]
    found = dataclasses.replace(undisturbed.found, rows=rows)
    page = read(write_tables(found, range(1, 7), tmp_path).html)
    assert [heading.split(".")[0] for heading in page.headings[:6]] == [
        f"Table {roman}" for roman in ("I", "II", "III", "IV", "V", "VI")
    ]
    below = table(page, "Attack")["paper"]
    assert below == ["", "–", "–", "98.0", "n/a", "2.0", "0.991", ""]
    markdown = (tmp_path / "tables.md").read_text()
    assert "*98.0*" in markdown
    plain_page = write_tables(undisturbed.found, [1], tmp_path / "plain").html
    assert "paper" not in table(read(plain_page), "Attack")


def test_a_text_from_outside_is_no_markup(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    odd = "<script>alert(1)</script> | *bold* `code` & ä"
    found = dataclasses.replace(
        undisturbed.found, title=odd, provenance={"command": odd, "more": {odd: 1.5}}
    )
    paths = write_report(found, tmp_path)
    html, markdown = (
        p.read_text(encoding="utf-8") for p in (paths.html, paths.markdown)
    )
    assert "<script" not in html
    assert "<script" not in markdown
    assert table(read(paths.html), "Item")["command"] == [odd]
    assert r"\| \*bold\* \`code\` &amp; ä" in markdown


def test_warnings_stand_at_the_top_and_in_their_section(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    found = dataclasses.replace(undisturbed.found, warnings=["PGD is odd."])
    html = write_report(found, tmp_path).html.read_text()
    assert "reason for doubt in these numbers: 1 warning," in html
    assert html.count("PGD is odd.") == 1
    quiet = dataclasses.replace(found, warnings=[])
    html = write_report(quiet, tmp_path).html.read_text()
    assert "reason for doubt" not in html
    assert "raised no warnings" in html


def test_a_false_positive_rate_beyond_chance_is_told(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rates = {0.05: Rate(50, 500), 0.005: Rate(3, 500)}
    clean = {**undisturbed.found.clean, "false_positives": rates}
    found = dataclasses.replace(undisturbed.found, clean=clean)
    html = write_report(found, tmp_path).html.read_text()
    assert "nominal rate of 5 % the analyzer flags more clean test images" in html
    assert "nominal rate of 0.5 % the analyzer flags" not in html


def test_a_directory_that_cannot_be_written_to_is_told(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`directory`. Expected a directory"):
        write_report(undisturbed.found, tmp_path / "file")


def test_the_worst_case_is_written_with_its_settings(tmp_path: Path) -> None:
    chosen = preset("digits", ["FGSM", "PGD"])
    tried, felled = {"FGSM": 20, "PGD": 12}, {"FGSM": 8, "PGD": 2}
    found = WorstCase("paper", tried, felled, Rate(10, 20))
    facts = {"command": "python recipes/x.py"}
    paths = write_worst_case(found, chosen, tmp_path, fpr=0.05, provenance=facts)
    content = json.loads(paths.json.read_text())
    assert content["overall"]["value"] == 0.5
    assert (content["tried"], content["felled"]) == (tried, felled)
    assert content["attacks"]["FGSM"] == chosen[0].settings()
    assert (content["fpr"], content["provenance"]) == (0.05, facts)
    rows = table(read(paths.html), "Attack")
    assert rows["PGD"][1:] == ["12", "2"]
    text = paths.markdown.read_text()
    assert "unnoticed at 5 % FPR" in text
    unwatched = write_worst_case(found, chosen, tmp_path, fpr=None, provenance=facts)
    assert "unnoticed" not in unwatched.markdown.read_text()


@pytest.fixture
def luring(tmp_path: Path) -> Any:
    right, wrong, some = [0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0], [0, 1, 2, 1, 2, 0]
    trial = Trial({"prob": 0.5}, images=4, standing=1, defended=2)
    told = {
        "command": "python recipes/luring.py",
        "seed": 3,
        "preset": "luring_mnist_cpu",
    }
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


def test_luring_tables_show_the_rates_and_the_papers(
    luring: Any, tmp_path: Path
) -> None:
    runs, frame = luring
    paths = write_luring_tables("mnist", CLEAN, runs, frame, tmp_path, provenance={})
    page = read(paths.html)
    assert page.headings == [
        "Table 1. Clean test images",
        "Table 2. Made on M∘P, shown to M and to M∘P",
        "Attackers that know more, or do without M∘P, and a control",
        "Settings of the attacks",
        "Origin",
    ]
    tabled = table(page, "Attack, ε")["FGSM 0.3"]
    # C_E, then Luring: AC of M∘P, AC of M, DAC.
    assert tabled == ["0.0", "50.0", "50.0", "0.0", "100.0", "100.0", "6"]
    threats = next(rows for rows in page.tables if rows[0][0] == "Variant")
    assert [row[2] for row in threats[1:]] == ["luring", "luring", "whitebox"]
    models = table(page, "Model")
    assert models["M"][0].endswith("98.0")
    assert models["M"][1:3] == ["–", "–"]
    assert models["paper"][0] not in ("", "–")
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
    paths = write_luring_tables("digits", CLEAN, [], frame, tmp_path, provenance={})
    page = read(paths.html)
    assert page.headings == ["Table 1. Clean test images", "Origin"]
    assert "paper" not in table(page, "Model")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.1234, "12.3"),
        (0.0, "0.0"),
        (1.0, "100.0"),
        (0.0001, "< 0.1"),
        (0.9999, "> 99.9"),
        (None, "n/a"),
        (float("nan"), "n/a"),
    ],
)
def test_what_is_not_quite_all_or_nothing_never_looks_so(
    share: float | None, text: str
) -> None:
    assert percent(share) == text


def test_rates_are_written_with_counts_and_wilson_intervals() -> None:
    cell = rate_cell(Rate(5, 50), "9.9", tint=True)
    # By hand: (0.1 + 1.92/50 ± 1.96·√(0.1·0.9/50 + 3.84/10⁴)) / (1 + 3.84/50).
    assert (cell.text, cell.interval, cell.paper) == ("10.0", "4.3–21.4", "9.9")
    assert (cell.hint, cell.tint) == ("5 of 50", 32)
    assert rate_cell(None).text == "–"
    assert rate_cell(Rate(0, 0)).text == "n/a"


def test_numbers_are_written_for_people() -> None:
    assert nominal(0.005) == "0.5 %"
    assert number(np.float32(0.25)) == "0.25"
    assert number({"a": [1, 2.5], "b": True}) == "a 1, 2.5, b True"
    assert listing(["A", "B", "C", "D", "E"], most=2) == "A, B and 3 more"
    assert (listing([]), listing(["A"])) == ("", "A")


def test_results_become_plain_data() -> None:
    rates = luring_metrics(
        augmented=np.array([1]), target=np.array([0]), labels=np.array([0])
    )
    assert plain(rates)["ac_m"]["value"] == 1.0
    assert plain({0.05: np.int64(3), "x": (np.float64("inf"), Path("a"))}) == {
        "0.05": 3,
        "x": [None, "a"],
    }
