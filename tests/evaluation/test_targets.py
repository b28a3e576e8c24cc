import dataclasses

import pytest

from keras_traps.evaluation.results import AttackRow, DetectionRates
from keras_traps.evaluation.targets import Target, reached
from keras_traps.rates import Rate
from tests.evaluation.factories import make_row


def with_paper(row: AttackRow, **paper: float | None) -> AttackRow:
    return dataclasses.replace(row, paper=paper)


@pytest.mark.parametrize(
    ("count", "paper", "met"),
    [(0, 0.0, True), (10, 0.0, True), (11, 0.0, False), (93, 0.083, True)],
)
def test_overall_success_may_be_one_point_above_the_papers(
    count: int, paper: float, met: bool
) -> None:
    nothing = Rate(0, 1000)
    row = with_paper(
        make_row("PGD", overall=(Rate(count, 1000), nothing)), overall_asr=paper
    )
    found = reached([row], Target.OVERALL)
    assert found.compared == ("PGD",)
    assert found.within == (("PGD",) if met else ())
    assert found.missed == (() if met else ("PGD",))


def test_the_low_rate_has_its_own_column() -> None:
    row = make_row("PGD", overall=(Rate(0, 100), Rate(9, 100)))
    row = with_paper(row, **{"overall_asr": 0.0, "overall_asr_fpr0.5": 0.08})
    assert reached([row], Target.OVERALL_LOW).within == ("PGD",)
    low = DetectionRates(0.005, Rate(0, 0), Rate(0, 0), Rate(10, 100))
    row = dataclasses.replace(row, detection=(row.detection[0], low))
    assert reached([row], Target.OVERALL_LOW).missed == ("PGD",)


@pytest.mark.parametrize(("count", "met"), [(96, False), (97, True), (100, True)])
def test_success_on_c_may_be_three_points_below_or_any_above(
    count: int, met: bool
) -> None:
    row = with_paper(make_row("EAD", on_classifier=Rate(count, 100)), asr_original=1.0)
    assert bool(reached([row], Target.UNDEFENDED).within) == met


@pytest.mark.parametrize(("count", "met"), [(2, True), (3, False)])
def test_the_integrated_model_may_be_two_points_above(count: int, met: bool) -> None:
    row = make_row("CW2", "integrated", success=Rate(count, 100))
    row = with_paper(row, asr_integrated=0.0)
    assert bool(reached([row], Target.INTEGRATED).within) == met


def test_what_the_paper_does_not_have_is_not_compared() -> None:
    rows = [with_paper(make_row("PGD")), with_paper(make_row("BIM"), overall_asr=None)]
    assert reached(rows, Target.OVERALL).compared == ()


def test_where_nothing_was_tried_there_is_nothing_to_compare() -> None:
    row = make_row("CW2", "integrated", success=Rate(0, 0))
    row = with_paper(row, asr_integrated=0.0)
    assert reached([row], Target.INTEGRATED).compared == ()
