from typing import Any

import numpy as np
import pandas as pd

from keras_traps.evaluation.warnings import find_warnings


def cell(
    attack: str,
    subject: str = "paper",
    *,
    fooled: int = 100,
    unseen: tuple[int, int] = (0, 0),
    of: int = 100,
    first: int = 0,
) -> pd.DataFrame:
    """The first images are fooled, the first of these unseen at each rate."""
    number = np.arange(of)
    columns: dict[str, Any] = {
        "subject": subject,
        "attack": attack,
        "integrated": subject == "integrated",
        "id": first + number,
        "success": number < fooled,
        "linf": 0.1,
        "flagged_0.05": number >= unseen[0],
        "flagged_0.005": number >= unseen[1],
    }
    return pd.DataFrame(columns)


def found(*cells: pd.DataFrame) -> list[str]:
    return find_warnings(pd.concat(cells, ignore_index=True))


def test_a_plausible_outcome_raises_nothing() -> None:
    assert not found(
        cell("FGSM", "undefended", fooled=60),
        cell("PGD", "undefended", fooled=95),
        cell("ILLC", "undefended", fooled=10),
        cell("FGSM", fooled=50),
        cell("PGD", fooled=80),
        cell("FGSM", "margin", fooled=50),
        cell("PGD", "margin", fooled=80),
        cell("FGSM", "integrated", fooled=5),
        cell("PGD", "integrated", fooled=5),
    )


def test_an_iterative_attack_that_fails_on_the_classifier_is_told() -> None:
    (warning,) = found(cell("BIM", "undefended", fooled=94))
    assert "BIM fools the undefended classifier on 94.0% only" in warning


def test_an_iterative_attack_weaker_than_a_single_step_is_told() -> None:
    single = cell("FGSM", "raw_sum", fooled=50)

    (warning,) = found(single, cell("BIM", "raw_sum", fooled=44))

    assert "BIM (44.0%) is weaker than FGSM (50.0%) on the raw_sum" in warning
    assert "on the 100 images that both met" in warning
    assert "masked gradients" in warning
    # Five images to none may be chance, and another variant is another matter.
    assert not found(single, cell("BIM", "raw_sum", fooled=45))
    assert not found(single, cell("BIM", "margin", fooled=10))


def test_a_lead_of_a_point_is_not_told_even_beyond_chance() -> None:
    single = cell("FGSM", fooled=500, of=1000)
    assert not found(single, cell("PGD", fooled=490, of=1000))
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
    assert not found(cell("PGD", unseen=(9, 60)), blind)


def test_attacks_are_compared_on_the_images_that_both_met() -> None:
    # The first 200 are easier, and PGD fools all of them that SPSA does.
    blind = cell("SPSA", "integrated", fooled=38, of=200)
    assert not found(blind, cell("PGD", "integrated", fooled=150, of=1000))

    (warning,) = found(blind, cell("PGD", "integrated", fooled=28, of=1000))

    assert "on 19.0% of images of the integrated variant and PGD on 14.0%" in warning
    assert "of the 200 that both met" in warning
    # Images that one alone met do not count.
    assert not found(blind, cell("PGD", "integrated", fooled=0, first=200))


def test_a_loss_that_gets_through_more_often_is_told() -> None:
    paper, other = cell("PGD", unseen=(2, 5)), cell("PGD", "margin", unseen=(3, 11))

    (warning,) = found(paper, other)

    told = "PGD succeeds unnoticed at 0.5% false positives on 11.0% of 100 images"
    assert told in warning
    assert "in the margin variant and on 5.0% with the paper's loss" in warning
    # What does not succeed is not counted, and another attack is no measure.
    assert not found(paper, cell("PGD", "margin", fooled=0, unseen=(3, 11)))
    assert not found(paper, cell("BIM", "margin", unseen=(90, 90)))


def test_images_left_as_they_were_are_told() -> None:
    still = cell("FGSM", "undefended", of=200)
    still.loc[:2, "linf"] = 0
    (warning,) = found(still)
    assert "FGSM left 1.5% of the images as they were" in warning
    still.loc[2, "linf"] = 0.1
    assert not found(still)
    # Others return a clean image where they fail.
    assert not found(still.assign(attack="CW2", linf=0.0))
