import numpy as np
import pytest

from keras_traps.evaluation.report.density import density, roc_curve


@pytest.mark.parametrize(
    "sample",
    [
        [],
        [0.3],
        [0.3, 0.3, 0.3],
        [0.0, 0.0],
        [np.nan, np.inf, 0.1],
        [1e8, 1e8 + 1e-3],
    ],
)
def test_what_does_not_vary_has_no_density(sample: list[float]) -> None:
    assert density(np.array(sample, np.float64)) is None


def test_two_different_values_are_enough() -> None:
    curve = density(np.array([0.0, 1.0], np.float32))

    assert curve is not None
    assert curve[1].max() == 1
    assert np.isfinite(curve).all()


def test_density_peaks_where_the_values_are() -> None:
    sample = np.random.default_rng(0).normal(2.0, 0.1, 40_000).astype(np.float32)
    curve = density(sample)

    assert curve is not None
    x, y = curve
    assert x[y.argmax()] == pytest.approx(2.0, abs=0.03)
    assert x[0] < sample.min() < sample.max() < x[-1]


def test_roc_curve_of_separated_scores_passes_the_corner() -> None:
    curve = roc_curve(np.array([0.0, 0.1]), np.array([0.5, 0.6]))

    assert curve is not None
    points = list(zip(*(axis.tolist() for axis in curve), strict=True))
    assert points == [(0, 0), (0, 0.5), (0, 1), (0.5, 1), (1, 1)]


def test_roc_curve_of_equal_scores_is_the_diagonal() -> None:
    curve = roc_curve(np.array([0.5, 0.5]), np.array([0.5]))

    assert curve is not None
    assert [axis.tolist() for axis in curve] == [[0, 1], [0, 1]]


def test_roc_curve_needs_scores_of_both() -> None:
    some, none = np.array([0.5]), np.array([np.nan])

    assert roc_curve(some, none) is None
    assert roc_curve(none, some) is None
