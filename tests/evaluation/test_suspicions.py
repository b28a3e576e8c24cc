import numpy as np
import pytest

from keras_traps.evaluation.results import AttackRow, Variant
from keras_traps.evaluation.suspicions import suspicions
from keras_traps.rates import Rate
from tests.evaluation.factories import make_record, make_row


def found(*rows: AttackRow) -> tuple[str, ...]:
    return suspicions(rows, {})


def test_a_plausible_outcome_raises_nothing() -> None:
    rows = [
        make_row("FGSM", on_classifier=Rate(60, 100), success=Rate(50, 100)),
        make_row("PGD", success=Rate(80, 100)),
        make_row("FGSM", "margin", success=Rate(50, 100)),
        make_row("PGD", "margin", success=Rate(80, 100)),
        make_row("FGSM", "integrated", success=Rate(5, 100), overall=()),
        make_row("PGD", "integrated", success=Rate(5, 100), overall=()),
    ]
    assert suspicions(rows, {"FGSM": make_record(), "PGD": make_record()}) == ()


@pytest.mark.parametrize("attack", ["BIM", "PGD", "UMIFGSM"])
def test_an_iterative_attack_that_fails_on_the_classifier_is_told(attack: str) -> None:
    (warning,) = found(make_row(attack, on_classifier=Rate(94, 100)))
    assert f"{attack} fools the undefended classifier on 94.0% only" in warning
    assert found(make_row(attack, on_classifier=Rate(95, 100))) == ()


def test_single_steps_and_targeted_attacks_may_fail_on_the_classifier() -> None:
    for attack in ("FGSM", "RFGSM", "ILLC", "TMIFGSM", "LLC"):
        assert found(make_row(attack, on_classifier=Rate(10, 100))) == ()


@pytest.mark.parametrize("attack", ["BIM", "PGD"])
def test_an_iterative_attack_weaker_than_a_single_step_is_told(attack: str) -> None:
    single = make_row("FGSM", "raw_sum", success=Rate(50, 100))

    (warning,) = found(single, make_row(attack, "raw_sum", success=Rate(48, 100)))

    assert f"{attack} (48.0%) is weaker than FGSM (50.0%) on the raw_sum" in warning
    assert "masked gradients" in warning
    # One point may be chance, and another variant is another matter.
    assert found(single, make_row(attack, "raw_sum", success=Rate(49, 100))) == ()
    assert found(single, make_row(attack, "margin", success=Rate(10, 100))) == ()


def test_an_attack_without_gradients_that_does_better_is_told() -> None:
    sighted = make_row("PGD", overall=(Rate(2, 100), Rate(50, 100)))
    blind = make_row("SPSA", overall=(Rate(9, 100), Rate(51, 100)))

    (warning,) = found(sighted, blind)

    assert "SPSA, which sees no gradient, gets through unnoticed at 5.0%" in warning
    assert "on 9.0% of images of the paper variant and PGD on 2.0%" in warning
    (warning,) = found(
        make_row("PGD", "integrated", success=Rate(5, 100), overall=()),
        make_row("SPSA", "integrated", success=Rate(7, 100), overall=()),
    )
    assert "gets through on 7.0% of images of the integrated variant" in warning
    # Where the gradient helps nothing is told.
    assert found(make_row("PGD", overall=(Rate(9, 100), Rate(60, 100))), blind) == ()


@pytest.mark.parametrize("variant", ["margin", "raw_sum"])
def test_a_loss_that_gets_through_more_often_is_told(variant: Variant) -> None:
    paper = make_row("PGD", overall=(Rate(2, 100), Rate(5, 100)))
    other = make_row("PGD", variant, overall=(Rate(3, 100), Rate(9, 100)))

    (warning,) = found(paper, other)

    assert "PGD succeeds unnoticed on 9.0% of images" in warning
    assert f"in the {variant} variant and on 5.0% with the paper's loss" in warning
    assert "at 0.5% false positives" in warning


def test_both_rates_are_looked_at() -> None:
    warnings = found(
        make_row("PGD"), make_row("PGD", "margin", overall=(Rate(4, 9), Rate(5, 9)))
    )
    assert len(warnings) == 2
    assert "at 5.0% false positives" in warnings[0]
    assert "at 0.5% false positives" in warnings[1]


def test_another_attack_is_no_measure_of_the_loss() -> None:
    rows = [make_row("PGD"), make_row("BIM", "margin", overall=(Rate(9, 9),) * 2)]
    assert found(*rows) == ()


def test_images_left_as_they_were_are_told() -> None:
    linf = np.full(200, 0.1, np.float32)
    linf[:3] = 0
    (warning,) = suspicions([], {"FGSM": make_record(200, linf=linf)})
    assert "FGSM left 1.5% of the images as they were" in warning
    linf[2] = 0.1
    assert suspicions([], {"FGSM": make_record(200, linf=linf)}) == ()


def test_nothing_tried_raises_nothing() -> None:
    assert suspicions([], {}) == ()
    nothing = Rate(0, 0)
    rows = [
        make_row(name, on_classifier=nothing, success=nothing, overall=(nothing,) * 2)
        for name in ("FGSM", "PGD")
    ]
    assert found(*rows, make_row("PGD", "margin", overall=(nothing,) * 2)) == ()
