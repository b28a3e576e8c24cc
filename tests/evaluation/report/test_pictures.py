import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from keras_traps.evaluation.report.pictures import example_views, strip_png
from keras_traps.evaluation.results import Evaluation, Example, FloatArray

from .conftest import example


def pixels(png: bytes) -> FloatArray:
    return np.asarray(Image.open(io.BytesIO(png)), np.float32)


def views_of(evaluation: Evaluation, shown: Example) -> tuple[str, dict[str, str]]:
    samples = dataclasses.replace(evaluation.samples, examples=(shown,))
    (view,) = example_views(dataclasses.replace(evaluation, samples=samples))
    return view.outcome, dict(view.facts)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (300, 200, 3)])
def test_strip_shows_three_images_at_a_whole_factor(
    shape: tuple[int, int, int],
) -> None:
    height, width, depth = pixels(strip_png(example("FGSM", shape, True))).shape
    factor = height // shape[0]

    assert height == factor * shape[0] >= min(112, shape[0]) * 3 // 4
    assert (width, depth) == (3 * factor * shape[1] + 16, 4)


def test_strip_keeps_pixels_sharp_and_grey_ones_grey() -> None:
    shown = example("FGSM", (8, 8, 1), True)
    strip = pixels(strip_png(shown))

    first = strip[:14, :14]
    assert np.unique(first[..., 0]).size == 1
    assert first[0, 0, 0] == np.rint(255 * shown.clean[0, 0, 0])
    assert (strip[..., 0] == strip[..., 1]).all()


def test_an_unchanged_image_has_a_grey_perturbation() -> None:
    shown = example("FGSM", (8, 8, 1), True)
    strip = pixels(strip_png(dataclasses.replace(shown, adversarial=shown.clean)))

    assert set(np.unique(strip[:, -112:, 0]).tolist()) == {128}


def test_what_became_of_an_example_is_said(evaluation: Evaluation) -> None:
    caught = example("FGSM", (8, 8, 1), True)
    missed = example("FGSM", (8, 8, 1), False)

    assert views_of(evaluation, caught) == (
        "Caught and recovered",
        {
            "Analyzer": "flagged by C1, C3, score 1.5",
            "Recovered": "7, the true class",
            "Change": "at most 0.10 per pixel, L2 0.78",
        },
    )
    assert views_of(evaluation, missed)[0] == "Missed"
    assert views_of(evaluation, missed)[1]["Recovered"].startswith("not asked")
    wrong = dataclasses.replace(caught, recovered=1)
    assert views_of(evaluation, wrong)[0] == "Caught, wrong class recovered"
    held = dataclasses.replace(missed, predicted=7)
    assert views_of(evaluation, held)[0] == "Not fooled"


def test_a_class_without_a_name_is_shown_by_its_index(evaluation: Evaluation) -> None:
    nameless = dataclasses.replace(evaluation, class_names=())

    assert example_views(nameless)[0].title == "FGSM: 7 read as 3"
