import dataclasses
from typing import Literal

import numpy as np
import pytest

from keras_traps.evaluation.jobs import Subject
from keras_traps.evaluation.records import Record
from keras_traps.evaluation.results import AttackRow, Variant
from keras_traps.evaluation.suspicions import suspicions
from keras_traps.rates import Rate
from tests.evaluation.factories import make_analyzer, make_record, make_row

ANALYZERS = {0.05: make_analyzer(0.5), 0.005: make_analyzer(0.8)}

Cell = tuple[AttackRow, Record]


def cell(
    attack: str,
    variant: Variant = "paper",
    *,
    fooled: int = 100,
    unseen: tuple[int, int] = (0, 0),
    of: int = 100,
    first: int = 0,
    on_classifier: Rate | None = None,
) -> Cell:
    """The first images are fooled, the first of these unseen at each rate."""
    number = np.arange(of)
    labels = np.zeros(of, np.int64)
    correlations = np.zeros((of, 3), np.float32)
    correlations[:, 0] = np.where(number < unseen[0], 0.0, 0.6)
    correlations[number >= unseen[1], 0] = 0.9
    record = make_record(
        of,
        ids=first + number,
        labels=labels,
        goals=labels + 1,
        answers=np.where(number < fooled, 2, 0),
        correlations=correlations,
    )
    return make_row(attack, variant, on_classifier=on_classifier), record


def found(*cells: Cell) -> tuple[str, ...]:
    records: dict[Subject, dict[str, Record]] = {}
    for row, record in cells:
        records.setdefault(row.variant, {})[row.attack] = record
    return suspicions([row for row, _ in cells], records, ANALYZERS)


def test_a_plausible_outcome_raises_nothing() -> None:
    cells = [
        cell("FGSM", on_classifier=Rate(60, 100), fooled=50),
        cell("PGD", fooled=80),
        cell("FGSM", "margin", fooled=50),
        cell("PGD", "margin", fooled=80),
        cell("FGSM", "integrated", fooled=5),
        cell("PGD", "integrated", fooled=5),
    ]
    assert found(*cells) == ()


@pytest.mark.parametrize("attack", ["BIM", "PGD", "UMIFGSM"])
def test_an_iterative_attack_that_fails_on_the_classifier_is_told(attack: str) -> None:
    (warning,) = found(cell(attack, on_classifier=Rate(94, 100)))
    assert f"{attack} fools the undefended classifier on 94.0% only" in warning
    assert found(cell(attack, on_classifier=Rate(95, 100))) == ()


def test_single_steps_and_targeted_attacks_may_fail_on_the_classifier() -> None:
    for attack in ("FGSM", "RFGSM", "ILLC", "TMIFGSM", "LLC"):
        assert found(cell(attack, on_classifier=Rate(10, 100))) == ()


@pytest.mark.parametrize("attack", ["BIM", "PGD"])
def test_an_iterative_attack_weaker_than_a_single_step_is_told(attack: str) -> None:
    single = cell("FGSM", "raw_sum", fooled=50)

    (warning,) = found(single, cell(attack, "raw_sum", fooled=44))

    assert f"{attack} (44.0%) is weaker than FGSM (50.0%) on the raw_sum" in warning
    assert "on the 100 images that both met" in warning
    assert "masked gradients" in warning
    # Five images to none may be chance, and another variant is another matter.
    assert found(single, cell(attack, "raw_sum", fooled=45)) == ()
    assert found(single, cell(attack, "margin", fooled=10)) == ()


def test_a_lead_of_a_point_is_not_told_even_beyond_chance() -> None:
    single = cell("FGSM", fooled=500, of=1000)
    assert found(single, cell("PGD", fooled=490, of=1000)) == ()
    assert len(found(single, cell("PGD", fooled=489, of=1000))) == 1


def test_an_attack_without_gradients_that_does_better_is_told() -> None:
    sighted = cell("PGD", unseen=(2, 50))
    blind = cell("SPSA", unseen=(9, 51))

    (warning,) = found(sighted, blind)

    assert "SPSA, which sees no gradient, gets through unnoticed at 5.0%" in warning
    assert "on 9.0% of images of the paper variant and PGD on 2.0%" in warning
    (warning,) = found(
        cell("PGD", "integrated", fooled=5), cell("SPSA", "integrated", fooled=12)
    )
    assert "gets through on 12.0% of images of the integrated variant" in warning
    # Where the gradient helps nothing is told.
    assert found(cell("PGD", unseen=(9, 60)), blind) == ()


def test_attacks_are_compared_on_the_images_that_both_met() -> None:
    # The first 200 are easier, and PGD fools all of them that SPSA does.
    blind = cell("SPSA", "integrated", fooled=38, of=200)
    sighted = cell("PGD", "integrated", fooled=150, of=1000)
    assert found(blind, sighted) == ()

    (warning,) = found(blind, cell("PGD", "integrated", fooled=28, of=1000))

    assert "on 19.0% of images of the integrated variant and PGD on 14.0%" in warning
    assert "of the 200 that both met" in warning


def test_images_that_one_alone_met_do_not_count() -> None:
    blind = cell("SPSA", "integrated", fooled=40, of=40)
    row, record = cell("PGD", "integrated", fooled=900, of=1000, first=20)
    last = dataclasses.replace(record, answers=record.answers[::-1])

    (warning,) = found(blind, (row, last))

    assert "on 100.0% of images" in warning
    assert "PGD on 0.0%, of the 20 that both met" in warning
    assert found(blind, cell("PGD", "integrated", fooled=0, first=40)) == ()


@pytest.mark.parametrize("variant", ["margin", "raw_sum"])
def test_a_loss_that_gets_through_more_often_is_told(variant: Variant) -> None:
    paper = cell("PGD", unseen=(2, 5))
    other = cell("PGD", variant, unseen=(3, 11))

    (warning,) = found(paper, other)

    assert "PGD succeeds unnoticed on 11.0% of 100 images" in warning
    assert f"in the {variant} variant and on 5.0% with the paper's loss" in warning
    assert "at 0.5% false positives" in warning


@pytest.mark.parametrize(("kind", "count"), [("UA", 2), ("TA", 0)])
def test_both_rates_are_looked_at_for_what_the_attack_aims_at(
    kind: Literal["UA", "TA"], count: int
) -> None:
    cells = [cell("PGD"), cell("PGD", "margin", unseen=(40, 50))]
    # Fooled, but not into the target.
    warnings = found(*((dataclasses.replace(row, kind=kind), r) for row, r in cells))
    assert len(warnings) == count
    for warning, rate in zip(warnings, ("5.0%", "0.5%"), strict=False):
        assert f"at {rate} false positives" in warning


def test_another_attack_is_no_measure_of_the_loss() -> None:
    assert found(cell("PGD"), cell("BIM", "margin", unseen=(90, 90))) == ()


def test_images_left_as_they_were_are_told() -> None:
    linf = np.full(200, 0.1, np.float32)
    linf[:3] = 0
    records = {"FGSM": make_record(200, linf=linf)}
    (warning,) = suspicions([], {"undefended": records}, ANALYZERS)
    assert "FGSM left 1.5% of the images as they were" in warning
    linf[2] = 0.1
    records = {"FGSM": make_record(200, linf=linf)}
    assert suspicions([], {"undefended": records}, ANALYZERS) == ()


def test_nothing_tried_raises_nothing() -> None:
    assert suspicions([], {}, ANALYZERS) == ()
    cells = [cell(name, on_classifier=Rate(0, 0), of=0) for name in ("FGSM", "PGD")]
    assert found(*cells, cell("SPSA", of=0), cell("PGD", "margin", of=0)) == ()
