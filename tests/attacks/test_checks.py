import math
import re

import pytest

from keras_traps.attacks.checks import check_count, check_positive


@pytest.mark.parametrize("value", [1e-30, 1, 1e30])
def test_a_number_above_zero_passes(value: float) -> None:
    check_positive("eps", value)


@pytest.mark.parametrize("value", [0, -1e-30, math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_positive_is_named(value: float) -> None:
    expected = (
        f"argument `eps`. Expected a finite number above 0. Received: eps={value}"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_positive("eps", value)


def test_a_count_passes_from_its_least_on() -> None:
    check_count("steps", 1)
    check_count("steps", 2.0)
    check_count("steps", 0, at_least=0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "Expected at least 1. Received: steps=0"),
        (-1, "Expected at least 1. Received: steps=-1"),
        (1.5, "Expected an integer. Received: steps=1.5"),
        (True, "Expected an integer. Received: steps=True"),
        (math.inf, "Expected an integer. Received: steps=inf"),
        (math.nan, "Expected an integer. Received: steps=nan"),
    ],
)
def test_a_count_that_is_none_is_named(value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"argument `steps`. {expected}")):
        check_count("steps", value)


def test_a_count_below_its_own_least_is_named() -> None:
    with pytest.raises(ValueError, match=r"Expected at least 2\. Received: classes=1"):
        check_count("classes", 1, at_least=2)
