import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from keras_traps.attractors import Copy, Trace
from keras_traps.evaluation.pictures import (
    correlation_picture,
    p_value_picture,
    roc_picture,
    strip,
)
from tests.evaluation.conftest import Undisturbed


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_plots_are_the_same_each_time_and_leave_no_figure_open(
    undisturbed: Undisturbed,
) -> None:
    for draw in (roc_picture, correlation_picture):
        plot = draw(undisturbed.found)
        assert plot is not None
        assert len(np.unique(pixels(plot.png)[..., 0])) > 20
        assert draw(undisturbed.found) == plot
    assert pyplot.get_fignums() == []


def test_what_is_not_finite_or_does_not_vary_is_drawn_all_the_same(
    undisturbed: Undisturbed,
) -> None:
    clean = np.ones((6000, 2, 3), np.float32)
    attacked = np.full((3, 2, 3), np.nan, np.float32)
    found = dataclasses.replace(
        undisturbed.found,
        evidence={"clean": clean, "FGSM": attacked},
        clean_scores=clean[:, 0, 0],
        attacked_scores={"FGSM": attacked[:, 0, 0]},
    )
    assert roc_picture(found) is None
    assert correlation_picture(found) is not None
    nothing = dataclasses.replace(found, evidence={"clean": clean[:0]})
    assert correlation_picture(nothing) is None


def test_a_strip_shows_clean_adversarial_and_the_stretched_change() -> None:
    clean = np.array([[[0.0], [0.5]]], np.float32)
    adversarial = np.array([[[0.2], [0.4]]], np.float32)
    example = {"attack": "FGSM", "clean": clean, "adversarial": adversarial}
    png, factor = strip(example)
    drawn = pixels(png)
    assert factor == pytest.approx(2.5)
    assert drawn.shape == (56, 3 * 112 + 2 * 8, 4)
    assert drawn[0, 0].tolist() == [0, 0, 0, 255]
    assert drawn[0, 112].tolist() == [0, 0, 0, 0]
    assert drawn[0, 120, 0] == 51
    # The largest change is white, half of it the other way is a dark grey.
    assert drawn[0, 240, 0] == 255
    assert drawn[-1, -1, 0] == pytest.approx(64, abs=1)
    coloured = np.zeros((4, 4, 3), np.float32)
    still = {"attack": "FGSM", "clean": coloured, "adversarial": coloured}
    assert pixels(strip(still)[0])[0, -1].tolist() == [128] * 3 + [255]
    # No attack changed it: where the other two would be is nothing.
    alone = pixels(strip({**still, "attack": ""})[0])
    assert alone[0, 0].tolist() == [0, 0, 0, 255]
    assert not alone[:, 112:].any()


def test_the_p_values_of_the_likeliest_copies_are_drawn() -> None:
    draw = np.random.default_rng(0)
    copies = tuple(Copy(f"$copy_{number}$", 1, "") for number in range(30))
    scores, innocent = (draw.random((n, 4), np.float32) for n in (30, 99))
    found = Trace(copies, scores, innocent)
    plot = p_value_picture(found, 0.01)
    assert plot.alt.startswith("The p-values of 20 of 30 copies")
    assert p_value_picture(found, 0.01) == plot
    few = Trace(copies[:2], found.scores[:2, :1], found.innocent[:, :1])
    assert len(pixels(p_value_picture(few, 0.01).png)) < len(pixels(plot.png))
    assert pyplot.get_fignums() == []
