import dataclasses

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from keras_traps.evaluation.report.plots import correlation_picture, roc_picture
from keras_traps.evaluation.results import Evaluation, FloatArray, Samples

from .conftest import MakeEvaluation

PNG = b"\x89PNG"


def with_samples(evaluation: Evaluation, samples: Samples) -> Evaluation:
    return dataclasses.replace(evaluation, samples=samples)


def test_plots_are_the_same_every_time(evaluation: Evaluation) -> None:
    assert roc_picture(evaluation) == roc_picture(evaluation)
    assert correlation_picture(evaluation) == correlation_picture(evaluation)


def test_plots_leave_matplotlib_as_it_was(evaluation: Evaluation) -> None:
    before = dict(matplotlib.rcParams)

    roc_picture(evaluation)
    correlation_picture(evaluation)

    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_light_and_dark_differ(evaluation: Evaluation) -> None:
    picture = roc_picture(evaluation)

    assert picture is not None
    assert picture.light.startswith(PNG)
    assert picture.dark.startswith(PNG)
    assert picture.light != picture.dark


def test_an_attack_without_scores_has_no_curve(evaluation: Evaluation) -> None:
    none: FloatArray = np.zeros(0, np.float32)
    scores = {**evaluation.samples.attacked_scores, "FGSM": none}
    samples = dataclasses.replace(evaluation.samples, attacked_scores=scores)

    picture = roc_picture(with_samples(evaluation, samples))

    assert picture is not None
    assert "FGSM" not in picture.alt
    assert "OM" in picture.alt


def test_correlations_that_do_not_vary_are_drawn_as_a_line(
    evaluation: Evaluation,
) -> None:
    flat: FloatArray = np.full((20, 10), 0.25, np.float32)
    one: FloatArray = np.full((1, 10), np.nan, np.float32)
    samples = dataclasses.replace(
        evaluation.samples, attacked_correlations={"FGSM": flat, "ILLC": one}
    )

    picture = correlation_picture(with_samples(evaluation, samples))

    assert picture is not None
    assert picture.light.startswith(PNG)


def test_without_samples_there_is_nothing_to_plot(evaluation: Evaluation) -> None:
    none: FloatArray = np.zeros((0, 10), np.float32)
    empty = with_samples(evaluation, Samples(none, none[:, 0], {}, {}, ()))

    assert roc_picture(empty) is None
    assert correlation_picture(empty) is None


def test_names_are_not_read_as_formulas(make_evaluation: MakeEvaluation) -> None:
    picture = roc_picture(make_evaluation((r"$\frac{", "PGD")))

    assert picture is not None
    assert picture.light.startswith(PNG)


def test_eighteen_attacks_fit_into_one_plot(make_evaluation: MakeEvaluation) -> None:
    picture = roc_picture(make_evaluation([f"Attack{i}" for i in range(18)]))

    assert picture is not None
    assert "Attack17" in picture.alt
