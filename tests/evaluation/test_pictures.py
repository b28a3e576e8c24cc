import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from keras_traps.evaluation.pictures import (
    correlation_picture,
    example_view,
    roc_picture,
    strip_png,
)
from tests.evaluation.conftest import Undisturbed

EXAMPLE: dict[str, Any] = {
    "attack": "FGSM",
    "label": 7,
    "predicted": 3,
    "score": 4.56789,
    "flagged": True,
    "fired": ["C1", "C3"],
    "recovered": 7,
    "clean": np.full((2, 2, 1), 0.5, np.float32),
    "adversarial": np.full((2, 2, 1), 0.75, np.float32),
}
DIGITS = tuple("0123456789")


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_plots_have_a_form_for_each_ground_and_leave_no_figure_open(
    undisturbed: Undisturbed,
) -> None:
    for draw in (roc_picture, correlation_picture):
        plot = draw(undisturbed.found)
        assert plot is not None
        light, dark = pixels(plot.light), pixels(plot.dark)
        assert light[0, 0, :3].tolist() == [255, 255, 255]
        assert dark[0, 0, :3].max() < 40
        again = draw(undisturbed.found)
        assert again == plot
    assert pyplot.get_fignums() == []


def test_what_is_not_finite_or_does_not_vary_is_drawn_all_the_same(
    undisturbed: Undisturbed,
) -> None:
    clean = np.ones((6000, 3), np.float32)
    attacked = np.full((3, 3), np.nan, np.float32)
    found = dataclasses.replace(
        undisturbed.found,
        correlations={"clean": clean, "FGSM": attacked},
        clean_scores=clean[:, 0],
        attacked_scores={"FGSM": attacked[:, 0]},
    )
    assert roc_picture(found) is None
    assert correlation_picture(found) is not None
    nothing = dataclasses.replace(found, correlations={"clean": clean[:0]})
    assert correlation_picture(nothing) is None


def test_a_strip_shows_clean_adversarial_and_the_stretched_change() -> None:
    clean = np.array([[[0.0], [0.5]]], np.float32)
    adversarial = np.array([[[0.2], [0.4]]], np.float32)
    strip = pixels(strip_png(clean, adversarial))
    side = strip.shape[0]
    assert strip.shape == (56, 3 * 112 + 2 * 8, 4)
    assert strip[0, 0].tolist() == [0, 0, 0, 255]
    assert strip[0, 112].tolist() == [0, 0, 0, 0]
    assert strip[0, 120, 0] == 51
    # The largest change is white, half of it the other way is a dark grey.
    assert strip[0, 240, 0] == 255
    assert strip[side - 1, -1, 0] == pytest.approx(64, abs=1)
    coloured = np.zeros((4, 4, 3), np.float32)
    assert pixels(strip_png(coloured, coloured))[0, -1].tolist() == [128] * 3 + [255]


@pytest.mark.parametrize(
    ("changes", "title", "outcome", "good"),
    [
        ({}, "FGSM: 7 read as 3", "Caught and recovered", True),
        ({"recovered": 2}, "FGSM: 7 read as 3", "Caught, wrong class recovered", False),
        ({"flagged": False}, "FGSM: 7 read as 3", "Missed", False),
        (
            {"predicted": 7},
            "FGSM: 7 still read as 7",
            "Flagged, though not fooled",
            True,
        ),
        (
            {"predicted": 7, "flagged": False},
            "FGSM: 7 still read as 7",
            "Not fooled",
            True,
        ),
    ],
)
def test_an_example_says_what_became_of_it(
    changes: dict[str, Any], title: str, outcome: str, good: bool
) -> None:
    view = example_view({**EXAMPLE, **changes}, DIGITS)
    assert (view["title"], view["outcome"], view["good"]) == (title, outcome, good)
    assert view["picture"].alt.endswith(f"{outcome}.")
    facts = dict(view["facts"])
    assert facts["Change"] == "at most 0.25 per pixel, L2 0.50"
    if not changes:
        assert facts["Analyzer"] == "flagged by C1, C3, score 4.568"
        assert facts["Recovered"] == "7, the true class"


def test_a_class_without_a_name_is_told_by_its_number() -> None:
    assert example_view({**EXAMPLE, "label": 12}, DIGITS)["title"].startswith(
        "FGSM: 12"
    )
