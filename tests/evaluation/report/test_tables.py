import dataclasses

from keras_traps.evaluation.report import setting_tables, tables
from keras_traps.evaluation.report.blocks import Table
from keras_traps.evaluation.report.document import build_document
from keras_traps.evaluation.results import (
    AttackRow,
    DetectionRates,
    Evaluation,
    Variant,
)
from keras_traps.rates import Rate

from .conftest import MakeEvaluation


def with_first(evaluation: Evaluation, row: AttackRow) -> Evaluation:
    return dataclasses.replace(evaluation, rows=(row, *evaluation.rows[1:]))


def nothing_found(row: AttackRow) -> AttackRow:
    none = tuple(
        DetectionRates(entry.fpr, Rate(0, 0), Rate(0, 0), Rate(0, 50))
        for entry in row.detection
    )
    return dataclasses.replace(row, success_trapped=Rate(0, 50), detection=none)


def test_attack_table_has_our_number_over_the_papers(evaluation: Evaluation) -> None:
    table = tables.attack_table(evaluation)
    names = [(column.group, column.name) for column in table.columns]
    om = next(row for row in table.rows if row[0].text == "OM")
    at = names.index(("Analyzer at 0.5 % FPR", "unnoticed"))

    assert (om[at].text, om[at].paper) == ("12.0", "14.0")
    assert (om[3].text, om[3].paper) == ("80.0", "97.0")


def test_papers_detection_stands_at_its_own_false_positive_rate_only(
    evaluation: Evaluation,
) -> None:
    table = tables.attack_table(evaluation)
    at = [i for i, column in enumerate(table.columns) if column.name == "detected"]

    assert [table.rows[1][i].paper for i in at] == ["87.6", "–"]


def test_an_attack_that_found_nothing_is_not_applicable(evaluation: Evaluation) -> None:
    row = nothing_found(evaluation.rows[0])

    cells = tables.attack_table(with_first(evaluation, row)).rows[0]

    assert [cell.text for cell in cells[4:7]] == ["n/a", "n/a", "0.0"]


def test_where_the_paper_has_no_such_attack_no_line_is_kept_for_it(
    make_evaluation: MakeEvaluation,
) -> None:
    table = tables.attack_table(make_evaluation(("FGSM", "Novel")))

    assert [cell.paper is None for cell in table.rows[0][:3]] == [False] * 3
    assert all(cell.paper is None for cell in table.rows[1])
    assert "paper" in table.caption
    assert "paper" not in tables.attack_table(make_evaluation(("Novel",))).caption


def test_integrated_table_takes_success_on_c_from_the_same_attack(
    evaluation: Evaluation,
) -> None:
    assert tables.integrated_table(evaluation).rows[0][2].text == "98.0"


def test_every_kind_of_integrated_model_has_its_table(
    make_evaluation: MakeEvaluation,
) -> None:
    variants: tuple[Variant, ...] = ("paper", "integrated_depth", "integrated_label")
    sections = build_document(make_evaluation(("FGSM",), variants)).sections
    (section,) = (one for one in sections if one.anchor == "integrated")
    found = [block for block in section.blocks if isinstance(block, Table)]
    assert [table.columns[3].name for table in found] == [
        "fools the integrated model (hard label)",
        "fools the integrated model (by depth)",
    ]
    assert all(table.rows[0][3].text == "80.0" for table in found)


def test_integrated_table_does_not_take_it_from_other_settings(
    evaluation: Evaluation,
) -> None:
    stronger = dataclasses.replace(evaluation.rows[0], settings={"eps": 0.5})

    table = tables.integrated_table(with_first(evaluation, stronger))

    assert table.rows[0][2].text == "–"


def test_loss_table_holds_the_variants_that_were_run(
    make_evaluation: MakeEvaluation,
) -> None:
    table = tables.loss_table(make_evaluation(variants=("paper", "margin")))

    assert table is not None
    assert [column.name for column in table.columns[1:3]] == [
        "published loss",
        "margin loss",
    ]
    assert [cell.text for cell in table.rows[0][3:5]] == ["12.0", "24.0"]


def test_loss_table_shows_an_attack_without_a_published_row(
    make_evaluation: MakeEvaluation,
) -> None:
    table = tables.loss_table(make_evaluation(variants=("margin",)))

    assert table is not None
    assert [cell.text for cell in table.rows[0][:3]] == ["FGSM", "–", "80.0"]


def test_without_other_losses_there_is_no_loss_table(
    make_evaluation: MakeEvaluation,
) -> None:
    assert tables.loss_table(make_evaluation(variants=("paper",))) is None


def test_every_table_has_a_cell_for_every_column(evaluation: Evaluation) -> None:
    loss = tables.loss_table(evaluation)
    assert loss is not None
    for table in (
        tables.clean_table(evaluation),
        tables.attack_table(evaluation),
        tables.integrated_table(evaluation),
        loss,
        tables.worst_case_table(evaluation),
        setting_tables.provenance_table(evaluation),
        setting_tables.calibration_table(evaluation),
        setting_tables.threshold_table(evaluation),
        setting_tables.settings_table(evaluation),
    ):
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_nested_provenance_becomes_one_row_each(evaluation: Evaluation) -> None:
    rows = setting_tables.provenance_table(evaluation).rows

    assert ("versions · keras", "3.15.1") in [(a.text, b.text) for a, b in rows]


def test_settings_that_differ_between_variants_get_their_own_row(
    evaluation: Evaluation,
) -> None:
    changed = dataclasses.replace(evaluation.rows[1], settings={"eps": 0.1})
    rows = (evaluation.rows[0], changed)

    table = setting_tables.settings_table(dataclasses.replace(evaluation, rows=rows))

    assert [row[1].text for row in table.rows] == [
        "eps = 0.3, nb_iter = 15",
        "eps = 0.1",
    ]
    assert [cell.text for cell in table.rows[1][2:]] == ["–", "1.25"]
