import pytest

from keras_traps.rates import Rate


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), Table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_is_wilsons(count: int, total: int, low: float, high: float) -> None:
    assert Rate(count, total).interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 7), (10**6, 10**6)])
def test_interval_stays_within_zero_and_one_at_the_ends(count: int, total: int) -> None:
    low, high = Rate(count, total).interval or (-1.0, -1.0)

    # The formula is exact at the ends but for a rounding error.
    assert 0 <= low <= count / total + 1e-12
    assert count / total - 1e-12 <= high <= 1


def test_nothing_tried_has_neither_rate_nor_interval() -> None:
    assert Rate(0, 0).value is None
    assert Rate(0, 0).interval is None
