import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm

from keras_traps.evaluation.figures.curves import draw_panel, overlap
from keras_traps.evaluation.report.canvas import LIGHT


def sample(middle: float, seed: int, count: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).normal(middle, 1, count)


@pytest.mark.parametrize("apart", [0.0, 1.0, 2.0, 4.0])
def test_the_overlap_of_two_normal_densities_is_that_of_the_formula(
    apart: float,
) -> None:
    found = overlap(sample(0, 0), sample(apart, 1))
    # A kernel estimate is a little wider than the density.
    assert found == pytest.approx(2 * norm.cdf(-apart / 2), abs=0.04)


def test_densities_that_do_not_meet_overlap_by_nothing() -> None:
    assert overlap(sample(0, 0), sample(100, 1)) == 0
    assert overlap(sample(100, 0), sample(0, 1)) == 0


def test_a_density_overlaps_with_itself_wholly() -> None:
    values = sample(3, 2)
    assert overlap(values, values) == pytest.approx(1, abs=1e-9)
    assert overlap(values, np.append(values, [np.nan, np.inf])) == pytest.approx(1)


def test_values_that_do_not_vary_overlap_if_they_are_the_same() -> None:
    assert overlap(np.ones(5), np.ones(7)) == 1
    assert overlap(np.ones(5), np.zeros(7)) == 0


def test_nothing_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="no finite number"):
        overlap(np.full(3, np.nan), np.ones(3))


def test_a_panel_names_each_sample_at_its_peak() -> None:
    axes = Figure().subplots()
    draw_panel(axes, {"C": 10 ** sample(-3, 0), "W": 10 ** sample(2, 1)}, LIGHT, "norm")
    assert [text.get_text() for text in axes.texts] == ["C", "W"]
    assert axes.get_xscale() == "linear"

    axes = Figure().subplots()
    values = {"C": 10 ** sample(-3, 0), "W": np.append(10 ** sample(2, 1), 0.0)}
    draw_panel(axes, values, LIGHT, "norm", logarithmic=True)
    assert axes.get_xscale() == "log"
    peaks = [np.log10(text.xy[0]) for text in axes.texts]  # type: ignore[attr-defined]
    assert peaks == pytest.approx([-3, 2], abs=0.3)
    assert axes.get_xlabel() == "norm"


def test_a_value_that_does_not_vary_is_drawn_as_a_line() -> None:
    axes = Figure().subplots()
    draw_panel(axes, {"W": np.full(9, 100.0)}, LIGHT, "norm", logarithmic=True)
    (line,) = axes.lines
    assert np.asarray(line.get_xdata())[0] == pytest.approx(100)
