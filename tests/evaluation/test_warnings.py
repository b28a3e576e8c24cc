from typing import Any

import numpy as np
import pandas as pd
import pytest

from keras_traps.evaluation.warnings import find_warnings


def cell(
    attack: str,
    subject: str = "paper",
    *,
    fooled: int = 100,
    unseen: tuple[int, int] = (0, 0),
    of: int = 100,
    first: int = 0,
    still: int = 0,
) -> pd.DataFrame:
    """The first images are fooled, the first of these unseen at each rate."""
    number = np.arange(of)
    columns: dict[str, Any] = {
        "subject": subject,
        "attack": attack,
        "integrated": subject == "integrated",
        "id": first + number,
        "success": number < fooled,
        "linf": np.where(number < still, 0, 0.1),
        "flagged_0.05": number >= unseen[0],
        "flagged_0.005": number >= unseen[1],
    }
    return pd.DataFrame(columns)


def found(*cells: pd.DataFrame) -> list[str]:
    return find_warnings(pd.concat(cells, ignore_index=True))


SINGLE, THOUSAND = cell("FGSM", fooled=50), cell("FGSM", fooled=500, of=1000)
# The first 200 are easier, and PGD fools all of them that SPSA does.
BLIND = cell("SPSA", "integrated", fooled=38, of=200)
PAPER = cell("PGD", unseen=(2, 5))


@pytest.mark.parametrize(
    "cells",
    [
        [cell("FGSM", "undefended", fooled=60), cell("PGD", "undefended", fooled=95)],
        [cell("ILLC", "undefended", fooled=10)],
        # Two of 200 may stay as they are; others return a clean image where they fail.
        [cell("FGSM", "undefended", of=200, still=2)],
        [cell("CW2", "undefended", still=100)],
        # Five images to none may be chance, a point is little, another variant is
        # another matter.
        [SINGLE, cell("BIM", fooled=45)],
        [THOUSAND, cell("PGD", fooled=490, of=1000)],
        [SINGLE, cell("BIM", "integrated", fooled=10)],
        # Where the gradient helps nothing is told; images that one alone met do not
        # count.
        [cell("PGD", unseen=(9, 60)), cell("SPSA", unseen=(9, 51))],
        [BLIND, cell("PGD", "integrated", fooled=150, of=1000)],
        [BLIND, cell("PGD", "integrated", fooled=0, first=200)],
        # What does not succeed is not counted, and another attack is no measure.
        [PAPER, cell("PGD", "margin", fooled=0, unseen=(3, 11))],
        [PAPER, cell("BIM", "margin", unseen=(90, 90))],
    ],
)
def test_a_plausible_outcome_raises_nothing(cells: list[pd.DataFrame]) -> None:
    assert found(*cells) == []


LESS = "BIM (44.0%) is weaker than FGSM (50.0%) on the paper variant, on the 100 images"


@pytest.mark.parametrize(
    ("told", "cells"),
    [
        ("undefended classifier on 94.0%", [cell("BIM", "undefended", fooled=94)]),
        ("FGSM left 1.5% of", [cell("FGSM", "undefended", of=200, still=3)]),
        (LESS, [SINGLE, cell("BIM", fooled=44)]),
        ("PGD (48.9%) is weaker", [THOUSAND, cell("PGD", fooled=489, of=1000)]),
        (
            "through unnoticed at 5.0% false positives on 9.0% of images of the paper",
            [cell("PGD", unseen=(2, 50)), cell("SPSA", unseen=(9, 51))],
        ),
        (
            "on 19.0% of images of the integrated variant and PGD on 14.0%, of the 200",
            [BLIND, cell("PGD", "integrated", fooled=28, of=1000)],
        ),
        (
            "at 0.5% false positives on 11.0% of 100 images in the margin variant",
            [PAPER, cell("PGD", "margin", unseen=(3, 11))],
        ),
    ],
)
def test_what_an_expert_would_question_is_told(
    cells: list[pd.DataFrame], told: str
) -> None:
    (warning,) = found(*cells)
    assert told in warning
