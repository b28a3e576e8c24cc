import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures.drawing import (
    Result,
    blank,
    density,
    draw_norms,
    overlap,
    quantiles,
    to_png,
    write,
)
from scipy.stats import norm


def sample(middle: float, seed: int, count: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).normal(middle, 1, count)


def test_a_figure_is_written_with_its_numbers_and_origin(tmp_path: Path) -> None:
    rows = [{"attack": "FGSM", "rate": 0.5}, {"attack": "PGD", "rate": None}]
    numbers = {"mean": np.float32("nan"), "cosine": {"C": 0.123456}, "ends": (1.0, 2.5)}
    result = Result(
        "figure4", "digits", "A title", {"figure4": blank(2, 2)}, {**numbers, "r": rows}
    )
    path = write(result, {"seed": 4}, tmp_path / "new")
    assert path == tmp_path / "new" / "figure4_digits.md"
    found = json.loads(path.with_suffix(".json").read_text("utf-8"))
    told = {"mean": None, "cosine": {"C": 0.123456}, "ends": [1.0, 2.5], "r": rows}
    assert found == {"title": "A title", "numbers": told, "provenance": {"seed": 4}}
    assert (path.parent / "figures" / "figure4_digits.png").exists()
    lines = path.read_text("utf-8").splitlines()
    assert lines[:3] == [
        "# A title",
        "",
        "![figure4_digits](figures/figure4_digits.png)",
    ]
    assert any(line.startswith("The distance q of a pixel") for line in lines)
    table = ["| mean | n/a |", "| cosine.C | 0.1235 |", "| ends | 1, 2.5 |"]
    assert {*table, "r:", "| FGSM | 0.5 |", "| PGD | n/a |", "| seed | 4 |"} <= {*lines}


def test_quantiles_and_densities_are_those_of_what_is_finite() -> None:
    values = [np.nan, *range(101), np.inf]
    assert quantiles(values) == {"median": 50.0, "low": 5.0, "high": 95.0}
    assert set(quantiles([np.nan]).values()) == {None}
    x, y = density(np.append(sample(3, 0, 20_000), [np.nan, np.inf]))
    assert y.max() == 1
    assert x[y.argmax()] == pytest.approx(3, abs=0.3)
    assert [of.tolist() for of in density(np.full(9, 2.0))] == [[2.0], [1.0]]
    assert not len(density([np.nan])[0])


@pytest.mark.parametrize("apart", [0.0, 1.0, 4.0, 100.0])
def test_the_overlap_of_two_normal_densities_is_that_of_the_formula(
    apart: float,
) -> None:
    first, second = sample(0, 0), sample(apart, 1)
    # A kernel estimate is a little wider than the density.
    expected = pytest.approx(2 * norm.cdf(-apart / 2), abs=0.04)
    assert overlap(first, second) == overlap(second, first) == expected
    # Of what does not vary it is all or nothing.
    assert overlap(np.ones(5), np.full(7, 1 + apart)) == (apart == 0)


def test_pictures_leave_matplotlib_as_it_was_and_are_the_same_every_time() -> None:
    before = dict(matplotlib.rcParams)
    first, second = (
        to_png(draw_norms({"C": sample(9, 0) ** 2}, {"C": np.full(9, 100.0)}))
        for _ in range(2)
    )
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []
