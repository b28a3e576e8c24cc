import dataclasses
import html.parser
import re

import pytest

from keras_traps.evaluation.report.blocks import Document
from keras_traps.evaluation.report.document import build_document
from keras_traps.evaluation.report.html import to_html
from keras_traps.evaluation.results import Evaluation
from keras_traps.rates import Rate

from .conftest import KINDS, MakeEvaluation, without_plots

VOID = {"meta", "img", "source", "br"}


class Page(html.parser.HTMLParser):
    """Collects the tags of a page and checks that they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(evaluation: Evaluation) -> Page:
    page = Page(to_html(build_document(without_plots(evaluation))))
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def text(document: Document) -> str:
    return to_html(document)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_page_refers_to_nothing_outside_itself(page: Page, text: str) -> None:
    outside = ("src", "srcset", "href", "data", "action", "poster")
    references = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in outside
    ]

    assert references
    assert all(r.startswith(("data:image/png;base64,", "#")) for r in references)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|url\(|@import", text)


def test_links_lead_to_sections_of_the_page(page: Page) -> None:
    anchors = [
        attributes.get("id") for _, attributes in page.tags if "id" in attributes
    ]

    assert len(anchors) == len(set(anchors))
    assert {f"#{a}" for a in anchors} >= {a["href"] for a in page.all("a")}


def test_names_are_escaped_everywhere(evaluation: Evaluation) -> None:
    evil = '<script>alert("1")</script>&'
    row = dataclasses.replace(
        evaluation.rows[0], attack=evil, note=evil, settings={evil: evil}
    )
    samples = dataclasses.replace(
        evaluation.samples,
        attacked_scores={evil: evaluation.samples.attacked_scores["FGSM"]},
        attacked_correlations={},
        examples=(dataclasses.replace(evaluation.samples.examples[0], attack=evil),),
    )
    document = build_document(
        dataclasses.replace(
            evaluation,
            title=evil,
            dataset=evil,
            class_names=(evil,) * 10,
            provenance={evil: {evil: evil}},
            calibration={"explanation": evil, evil: evil},
            thresholds={0.05: {evil: 1.0}},
            rows=(row, *evaluation.rows[1:]),
            warnings=(evil,),
            samples=samples,
        )
    )
    page = Page(to_html(document))

    assert page.open == []
    assert page.all("script") == []
    assert page.text.count(evil) >= 10
    assert sum(evil in (image["alt"] or "") for image in page.all("img")) == 2


@pytest.mark.parametrize("attack", KINDS)
def test_every_attack_names_a_row(text: str, attack: str) -> None:

    # Main, integrated, loss and settings table.
    assert text.count(f'<th scope="row" class="name">{attack}</th>') == 4


def test_header_cells_say_what_they_head(page: Page) -> None:
    heads = page.all("th")

    assert {head["scope"] for head in heads} == {"row", "col", "colgroup"}


def test_columns_of_head_and_body_agree(text: str) -> None:
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        head, *bodies = re.findall(r"<t(?:head|body)>.*?</t(?:head|body)>", table, re.S)
        groups = sum(map(int, re.findall(r'colspan="(\d+)"', head)))
        singles = head.count('scope="col"')
        tall = head.count('rowspan="2"')
        if groups:
            assert groups + tall == singles
        for line in re.findall(r"<tr.*?</tr>", " ".join(bodies), re.DOTALL):
            assert len(re.findall(r"<t[hd]\b", line)) == singles


def test_pictures_have_alternative_texts(page: Page, evaluation: Evaluation) -> None:
    images = page.all("img")

    assert len(images) == 2 + len(evaluation.samples.examples)
    assert all(image["alt"] for image in images)


def test_nothing_tried_reads_not_applicable(evaluation: Evaluation) -> None:
    clean = dataclasses.replace(
        evaluation.clean, accuracy_trapped=Rate(0, 0), paper_accuracy_trapped=None
    )
    page = page_of(dataclasses.replace(evaluation, clean=clean))

    assert "n/a" in page.text
    assert "0 of 0" in page.text


def test_the_honest_limits_stand_in_every_report(
    make_evaluation: MakeEvaluation,
) -> None:
    text = " ".join(page_of(make_evaluation((), ())).text)

    assert "attackers who are blind to the construction" in text
    assert "cannot say how far its numbers rest on the attacker's choice" in text


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_image_sizes_from_digits_to_cifar_are_shown(
    make_evaluation: MakeEvaluation, shape: tuple[int, int, int]
) -> None:
    page = page_of(make_evaluation(("FGSM",), ("paper",), shape))

    assert "FGSM: 7 read as 3" in page.text


def test_no_examples_leave_no_empty_grid(evaluation: Evaluation) -> None:
    samples = dataclasses.replace(evaluation.samples, examples=())
    page = page_of(dataclasses.replace(evaluation, samples=samples))

    assert page.all("article") == []
    assert not any(div.get("class") == "examples" for div in page.all("div"))
