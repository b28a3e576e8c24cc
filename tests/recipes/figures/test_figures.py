"""Each figure on a few digits: the numbers are those of the parts it is made of."""

import dataclasses
import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import attacks
from keras_traps.attractors import (
    AttractorSearch,
    Calibration,
    decoder_of,
    density_cosines,
    gradient_norms,
    loss_cosines,
    scores_of,
    soft_label_loss,
)
from keras_traps.attractors.analysis import both_answers
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence, defend
from keras_traps.evaluation.figures import Study
from keras_traps.evaluation.figures.directions import figure_7a
from keras_traps.evaluation.figures.local import figure_7b
from keras_traps.evaluation.figures.quantization import figure_4
from keras_traps.evaluation.figures.scheme import figure_2
from keras_traps.evaluation.figures.strength import figure_5
from keras_traps.evaluation.figures.surface import figure_1
from keras_traps.evaluation.figures.trapdoor import figure_6
from keras_traps.evaluation.report.blocks import Paragraph, Picture, Table

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def few(digits_test: Dataset) -> Dataset:
    return digits_test.take(60)


def check(study: Study, pictures: int = 1) -> None:
    """What every study has."""
    found = [block for block in study.blocks if isinstance(block, Picture)]
    assert len(found) == pictures
    for drawn in found:
        assert drawn.light.startswith(PNG)
        assert drawn.dark.startswith(PNG)
        assert drawn.light != drawn.dark
        assert drawn.name == study.name
    for block in study.blocks:
        if isinstance(block, Table):
            assert all(len(row) == len(block.columns) for row in block.rows)
    json.dumps(study.numbers, allow_nan=False)
    assert plt.get_fignums() == []


def test_figure_5_compares_the_norms(digits_defence: Defence, few: Dataset) -> None:
    study = figure_5(digits_defence, few)
    check(study)
    classifier = scores_of(digits_defence.classifier, "logits")
    expected = gradient_norms(classifier, few.images, few.labels)
    found = study.numbers["gradient"]["classifier"]["median"]
    assert found == pytest.approx(np.median(expected), rel=1e-5)
    assert all(goal.met for goal in study.goals)
    assert study.numbers["output_larger_in_c"] == 1


def test_figure_7a_measures_the_cosines(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
    few: Dataset,
) -> None:
    study = figure_7a(digits_defence, digits_calibration, digits_train, few)
    check(study)
    loss = soft_label_loss(scores_of(digits_defence.trapped, "scores"))
    expected = loss_cosines(digits_defence.trapped, {"M": loss}, few.images)
    median = float(np.nanmedian(expected.feasible["M"]))
    assert study.numbers["cosine"]["M"]["median"] == pytest.approx(median, abs=1e-5)
    assert study.goals[0].met == (median >= 0.8)
    assert len(study.numbers["variants"]) == 12
    way = list(study.numbers["on_the_way"].values())
    assert way[0] == pytest.approx(median, abs=1e-5)
    assert way[0] > way[-1]
    heavy = study.numbers["variants"]
    names = [name for name in heavy if name.startswith("heavy") and "cut" in name]
    small, whole = (heavy[name]["m"] for name in names)
    assert whole > small


def test_figure_7b_counts_images_without_a_hit_as_outside(
    digits_defence: Defence, few: Dataset
) -> None:
    study = figure_7b(digits_defence, few, deltas=[1.5, 1e-3], samples=50, seed=1)
    check(study)
    expected = density_cosines(
        digits_defence.trapped,
        both_answers(digits_defence.trapped),
        few.images,
        delta=1.5,
        samples=50,
        search=AttractorSearch(scale=128.0),
        seed=1,
    )
    share = float((np.nan_to_num(expected.cosines[:, 1], nan=-1) >= 0.1).mean())
    assert study.numbers["M"]["in_basin"] == pytest.approx(share, abs=0.02)
    assert study.goals[0].met == (share > 0.5)
    others = study.numbers["others"]
    assert [(other["delta"], other["step"]) for other in others] == [
        (1.5, 128.0),
        (1.5, 3.0),
        (1e-3, 128.0),
        (1e-3, 3.0),
    ]
    # So near to a clean image, hardly any other class is ever answered.
    assert others[-1]["C"]["without"] > 0.8


def test_figure_7b_needs_a_radius(digits_defence: Defence, few: Dataset) -> None:
    with pytest.raises(ValueError, match="argument `deltas`"):
        figure_7b(digits_defence, few, deltas=[], samples=9)
    with pytest.raises(ValueError, match="argument `delta`"):
        figure_7b(digits_defence, few, deltas=[-1.0], samples=9)
    with pytest.raises(ValueError, match="argument `samples`"):
        figure_7b(digits_defence, few, deltas=[1.0], samples=0)


def test_figure_6_attacks_the_counter_example(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
    few: Dataset,
) -> None:
    chosen = [
        *attacks.preset("digits", ["FGSM"]),
        attacks.create("CW2", binary_search_steps=1, max_iterations=3),
    ]
    other = defend(
        digits_defence.classifier,
        digits_calibration.settings,
        digits_train.images,
        fprs=(0.1,),
    )
    study = figure_6(
        other,
        chosen,
        digits_train,
        few,
        amplitude=0.8,
        num_attacked=12,
    )
    check(study)
    # The trapdoors are looked for at 5 %, attractors at the analyzer's own rate.
    (said, _) = [block.text for block in study.blocks if isinstance(block, Paragraph)]
    assert "Each way of looking for trapdoors is set to 5% false positives" in said
    assert "this project's analyzer, set to 10 %, on" in said
    numbers = study.numbers
    assert numbers["attacked"] == 12
    assert numbers["training_goals"]["trapdoor_success"] > 0.9
    assert [row["attack"] for row in numbers["attacks"]] == ["FGSM", "CW2"]
    assert numbers["attacks"][0]["settings"] == {"eps": 0.3}
    assert list(numbers["quiet_trapdoors"]) == ["clean images", "FGSM"]
    assert numbers["unattacked"]["with a trapdoor"]["by_detector"] > 0.9
    ratio = numbers["median_ratio_m2_m1"]
    assert study.goals[0].met == (ratio > 1)
    # On clean images the whole model has the gradient of N2.
    whole, second = (numbers["magnitudes"][name]["median"] for name in ("whole", "m2"))
    assert whole == pytest.approx(second, rel=1e-3)


def test_figure_1_has_humps_in_m_and_none_in_c(
    digits_defence: Defence, digits_test: Dataset
) -> None:
    study = figure_1(digits_defence, digits_test)
    check(study)
    assert len(set(study.numbers["classes"])) == 2
    low, high = study.numbers["soft_label_c"]
    assert 0 <= low < high <= 1


def test_figure_2_shows_what_is_computed(
    digits_defence: Defence, digits_test: Dataset
) -> None:
    study = figure_2(digits_defence, digits_test, attacks.create("FGSM", eps=0.3))
    check(study)
    c, w = np.array(study.numbers["c"]), np.array(study.numbers["w"])
    total = c + w
    expected = total / np.abs(total).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(study.numbers["m"], expected, atol=1e-5)
    names = digits_test.class_names
    assert study.numbers["answers"] == [names[k] for k in expected.argmax(axis=1)]
    assert study.numbers["answers"][0] == study.numbers["label"]


def test_figure_2_says_at_which_rate_its_thresholds_are(
    digits_defence: Defence, digits_test: Dataset
) -> None:
    analyzers = {0.005: digits_defence.analyzers[0.005]}
    other = dataclasses.replace(digits_defence, analyzers=analyzers)
    study = figure_2(other, digits_test, attacks.create("FGSM", eps=0.3))
    (drawn,) = [block for block in study.blocks if isinstance(block, Picture)]
    assert "thresholds L and U at 0.5 % false positives" in drawn.caption


def test_figure_4_shows_every_step(
    digits_defence: Defence, digits_test: Dataset
) -> None:
    study = figure_4(digits_defence, digits_test)
    check(study)
    assert study.numbers["shown"]["128"] == [0.0, 255.0]
    low, high = study.numbers["shown"]["3"]
    assert 0 <= low < high <= 255
    assert high - low == 15


def test_a_decoder_of_one_step_has_figures_too(
    digits_defence: Defence, digits_train: Dataset, few: Dataset
) -> None:
    from keras_traps import calibrate, inject

    settings = calibrate(
        digits_defence.classifier, digits_train.images, output="logits", steps=(40.0,)
    ).settings
    other = dataclasses.replace(
        digits_defence, trapped=inject(digits_defence.classifier, settings)
    )
    assert decoder_of(other.trapped).steps == (40.0,)
    check(figure_4(other, few))
    check(figure_7b(other, few.take(4), deltas=[1.0], samples=9))


def test_figures_leave_matplotlib_as_it_was(
    digits_defence: Defence, few: Dataset
) -> None:
    before = dict(matplotlib.rcParams)
    figure_5(digits_defence, few)
    assert dict(matplotlib.rcParams) == before


def test_a_figure_is_the_same_every_time(digits_defence: Defence, few: Dataset) -> None:
    tf.random.set_seed(5)
    pictures = [
        figure_7b(digits_defence, few.take(5), deltas=[1.5], samples=40).blocks[0]
        for _ in range(2)
    ]
    assert isinstance(pictures[0], Picture)
    assert isinstance(pictures[1], Picture)
    assert pictures[0].light == pictures[1].light
