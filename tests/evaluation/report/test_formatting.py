import pytest

from keras_traps.evaluation.report.formatting import (
    listing,
    measure,
    nominal,
    number,
    percent,
    rate_cell,
)
from keras_traps.rates import Rate


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.0"),
        (1.0, "100.0"),
        (0.123, "12.3"),
        (0.0001, "< 0.1"),
        (0.9999, "> 99.9"),
        (None, "n/a"),
        (float("nan"), "n/a"),
    ],
)
def test_percent_never_rounds_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("fpr", "text"), [(0.05, "5 %"), (0.005, "0.5 %"), (0.07, "7 %")]
)
def test_nominal_rates_have_no_rounding_noise(fpr: float, text: str) -> None:
    assert nominal(fpr) == text


def test_a_rate_of_nothing_is_not_applicable() -> None:
    cell = rate_cell(Rate(0, 0), tint=True)

    assert (cell.text, cell.interval, cell.share) == ("n/a", "", None)


def test_a_missing_rate_is_a_dash() -> None:
    assert rate_cell(None).text == "–"


def test_a_rate_shows_its_counts_and_interval() -> None:
    cell = rate_cell(Rate(1500, 3000))

    assert (cell.text, cell.count) == ("50.0", "1,500 of 3,000")
    assert cell.interval == "48.2–51.8"


def test_what_is_not_finite_is_not_a_measure() -> None:
    assert measure(float("nan"), 2) == measure(None, 2) == "n/a"


def test_nested_settings_are_written_out() -> None:
    assert number({"steps": (3, 128), "on": True}) == "steps 3, 128, on True"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["A"], "A"),
        (["A", "B"], "A and B"),
        (list("ABCD"), "A, B, C and D"),
        (list("ABCDE"), "A, B, C and 2 more"),
    ],
)
def test_listing_names_a_few(names: list[str], text: str) -> None:
    assert listing(names) == text
