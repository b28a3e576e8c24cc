import dataclasses

import pytest

from keras_traps.evaluation.report.blocks import Document, Paragraph, Table
from keras_traps.evaluation.report.html import to_html
from keras_traps.evaluation.report.markdown import to_markdown
from keras_traps.evaluation.report.paper_tables import VARIANTS_OF, build_tables
from keras_traps.evaluation.results import Evaluation, Fooled, Unnoticed
from keras_traps.rates import Rate
from tests.evaluation.report.conftest import MakeEvaluation, without_plots

ATTACKS = ("FGSM", "OM", "CW2")


@pytest.fixture(scope="module")
def evaluation(make_evaluation: MakeEvaluation) -> Evaluation:
    made = make_evaluation(ATTACKS, ("paper", "integrated", "integrated_label"))
    return without_plots(made)


def tables_of(document: Document, anchor: str) -> list[Table]:
    (section,) = [s for s in document.sections if s.anchor == anchor]
    return [block for block in section.blocks if isinstance(block, Table)]


def texts(document: Document, anchor: str) -> list[str]:
    (section,) = [s for s in document.sections if s.anchor == anchor]
    return [block.text for block in section.blocks if isinstance(block, Paragraph)]


def column(table: Table, name: str, group: str = "") -> int:
    (index,) = [
        index
        for index, column in enumerate(table.columns)
        if column.name == name and column.group == group
    ]
    return index


@pytest.mark.parametrize("number", VARIANTS_OF)
def test_each_table_stands_alone_with_settings_and_origin(
    number: int, evaluation: Evaluation
) -> None:
    document = build_tables(evaluation, [number])
    anchors = [section.anchor for section in document.sections]
    assert anchors == [f"table-{number}", "settings", "origin"]
    for draw in (to_markdown, to_html):
        assert evaluation.provenance["command"] in draw(document)


def test_tables_come_in_their_order_and_once(evaluation: Evaluation) -> None:
    document = build_tables(evaluation, [6, 1, 6, 4])
    assert [s.anchor for s in document.sections[:3]] == [
        "table-1",
        "table-4",
        "table-6",
    ]


@pytest.mark.parametrize("number", VARIANTS_OF)
def test_every_row_has_a_cell_for_every_column(
    number: int, evaluation: Evaluation
) -> None:
    for table in tables_of(build_tables(evaluation, [number]), f"table-{number}"):
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_table_1_has_ours_the_papers_and_the_number_of_images(
    evaluation: Evaluation,
) -> None:
    (table,) = tables_of(build_tables(evaluation, [1]), "table-1")
    assert [row[0].text for row in table.rows] == list(ATTACKS)
    om = table.rows[1]
    cell = om[column(table, "overall")]
    # 6 of 50 here, 12.0 % in the paper.
    assert (cell.text, cell.paper, cell.count) == ("12.0", "12.0", "6 of 50")
    assert cell.interval
    assert om[column(table, "images")].text == "50"
    assert om[column(table, "fools C")].text == "98.0"


def test_table_1_says_which_attacks_miss_the_papers_numbers(
    evaluation: Evaluation,
) -> None:
    overall, undefended = texts(build_tables(evaluation, [1]), "table-1")
    # 12 % unnoticed: the paper has 0 for FGSM and CW2, 12 for OM.
    assert "plus 1 point for 1 of 3 attacks. Not for FGSM, CW2." in overall
    assert "for 3 of 3 attacks." in undefended


def test_table_3_leaves_a_place_for_the_baselines(evaluation: Evaluation) -> None:
    (table,) = tables_of(build_tables(evaluation, [3]), "table-3")
    for name in ("LID", "FS", "MagNet", "Trapdoor"):
        index = column(table, name, "Baselines")
        assert {row[index].text for row in table.rows} == {"–"}
    auc = table.rows[0][column(table, "AUC", "Attractors")]
    assert (auc.text, auc.paper) == ("0.987", "1.000")


def test_table_4_has_both_rates(evaluation: Evaluation) -> None:
    table = tables_of(build_tables(evaluation, [4]), "table-4")[0]
    om = table.rows[1]
    assert om[column(table, "overall", "5 % FPR")].paper == "12.0"
    assert om[column(table, "overall", "0.5 % FPR")].paper == "14.0"


def test_table_5_has_a_column_for_each_kind_of_answer(evaluation: Evaluation) -> None:
    document = build_tables(evaluation, [5])
    (table,) = tables_of(document, "table-5")
    assert [c.name for c in table.columns] == [
        "Attack",
        "Kind",
        "fools C",
        "integrated model",
        "and not flagged",
        "integrated, hard label",
        "and not flagged",
        "images",
    ]
    fgsm = table.rows[0]
    assert (fgsm[5].text, fgsm[5].paper) == ("80.0", "0.7")
    assert (fgsm[6].count, fgsm[6].paper) == ("12 of 50", "")
    said = " ".join(texts(document, "table-5"))
    assert "no safer" in said
    # What is said of the gradients names every kind of answer.
    assert all(kind in said for kind in ("hard answer", "largest of C - W", "By depth"))
    assert said.count("for 0 of 3 attacks. Not for FGSM, OM, CW2.") == 2


def at_other_rates(evaluation: Evaluation, *rates: float) -> Evaluation:
    """The same numbers, found at other nominal rates; the first is the largest."""
    old = tuple(evaluation.thresholds)
    return dataclasses.replace(
        evaluation,
        thresholds=dict(zip(rates, evaluation.thresholds.values(), strict=True)),
        rows=tuple(
            dataclasses.replace(
                row,
                detection=tuple(
                    dataclasses.replace(found, fpr=rates[old.index(found.fpr)])
                    for found in row.detection
                ),
            )
            for row in evaluation.rows
        ),
    )


def test_tables_say_at_which_rate_they_are(evaluation: Evaluation) -> None:
    for number in (1, 5, 6):
        (table,) = tables_of(build_tables(evaluation, [number]), f"table-{number}")
        assert table.caption.endswith("The analyzer's false-positive rate is 5 %.")
        found = build_tables(at_other_rates(evaluation, 0.1, 0.01), [number])
        (table,) = tables_of(found, f"table-{number}")
        assert "false-positive rate is 10 %. The paper's numbers are for 5 %" in (
            table.caption
        )


def test_numbers_at_another_rate_are_not_held_against_the_papers(
    evaluation: Evaluation,
) -> None:
    other = at_other_rates(evaluation, 0.1, 0.01)
    (undefended,) = texts(build_tables(other, [1]), "table-1")
    assert "success on C" in undefended
    assert "attacks. Not for" not in " ".join(
        texts(build_tables(other, [5]), "table-5")
    )


def test_the_papers_rate_is_table_1s_and_the_largest_table_5s(
    evaluation: Evaluation,
) -> None:
    both = at_other_rates(evaluation, 0.1, 0.05)
    captions = [
        tables_of(build_tables(both, [number]), f"table-{number}")[0].caption
        for number in (1, 5)
    ]
    assert "rate is 5 %." in captions[0]
    assert "rate is 10 %." in captions[1]


def test_table_6_is_of_attacks_without_a_ball(evaluation: Evaluation) -> None:
    changed = dataclasses.replace(
        evaluation,
        rows=tuple(
            dataclasses.replace(
                row,
                mean_l2=0.5 if row.variant == "integrated_label" else None,
                mean_l2_classifier=0.25,
                success_trapped=Rate(7, 50),
            )
            for row in evaluation.rows
        ),
    )
    (table,) = tables_of(build_tables(changed, [6]), "table-6")
    (row,) = table.rows
    assert [cell.text for cell in row] == [
        "CW2",
        "TA",
        "0.25",
        "n/a",
        "0.50",
        "50",
    ]
    assert row[4].count == "7 images"


def test_notes_and_warnings_are_not_left_out(evaluation: Evaluation) -> None:
    text = to_markdown(build_tables(evaluation, [1]))
    assert "A black box beats a white box." in text
    assert "Fewer iterations than published." in text


def test_what_goes_unnoticed_stands_beside_what_does_not(
    evaluation: Evaluation,
) -> None:
    anchors = [s.anchor for s in build_tables(evaluation, [1]).sections]
    assert "unnoticed" not in anchors

    missed = Unnoticed(
        "OM", 0.05, Fooled(3, 0.125, 0.0625, 1.5), Fooled(0, None, None, None)
    )
    found = build_tables(dataclasses.replace(evaluation, unnoticed=(missed,)), [1])
    (table,) = tables_of(found, "unnoticed")
    (row,) = table.rows
    assert [cell.text for cell in row] == [
        *("OM", "3", "0.125", "0.062", "1.500"),
        *("0", "n/a", "n/a", "n/a"),
    ]
    assert "5 % FPR" in table.caption
    for draw in (to_markdown, to_html):
        assert "What goes unnoticed" in draw(found)
