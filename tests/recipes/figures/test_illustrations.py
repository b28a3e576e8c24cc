import dataclasses

import numpy as np
from figures.attractions import figure_7b
from figures.illustrations import figure_1, figure_2, figure_4

from keras_traps import attacks, inject
from keras_traps.attractors import Calibration
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence


def test_figure_2_shows_what_is_computed(
    defence: Defence, digits_test: Dataset
) -> None:
    analyzer = defence.analyzers[0.005]
    attack = attacks.create("FGSM", eps=0.3)
    result = figure_2(defence.trapped, analyzer, digits_test, attack)
    numbers, names = result.numbers, digits_test.class_names
    total = numbers["c"] + numbers["w"]
    expected = total / np.abs(total).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(numbers["m"], expected, atol=1e-5)
    assert numbers["answers"] == [names[k] for k in expected.argmax(axis=1)]
    assert numbers["answers"][0] == numbers["label"] != numbers["answers"][1]
    assert result.words == {"attack": "FGSM", "fpr": "0.5"}
    limits, w = analyzer.thresholds, numbers["w"]
    statistics = np.stack([w.max(1), -w.min(1), w.std(1)], axis=1)
    by_watermark = statistics > np.array(limits.limits[:3])
    assert numbers["fired"][:, :3].tolist() == by_watermark.tolist()
    assert numbers["flagged"].tolist() == numbers["fired"].any(axis=1).tolist()


def test_figures_1_and_4_show_both_models_and_both_steps(
    defence: Defence, digits_test: Dataset
) -> None:
    numbers = figure_1(defence.trapped, digits_test).numbers
    assert len(set(numbers["classes"])) == 2
    low, high = numbers["soft_label_c"]
    assert 0 <= low < high <= 1
    assert np.diff(numbers["soft_label_m"]) > 0
    shown = figure_4(defence.trapped, digits_test).numbers["shown"]
    assert shown["128"] == (0.0, 255.0)
    low, high = shown["3"]
    assert 0 <= low == high - 15 <= 240


def test_a_decoder_of_one_step_has_figures_too(
    defence: Defence, linear_calibration: Calibration, digits_test: Dataset
) -> None:
    settings = linear_calibration.settings
    small = dataclasses.replace(settings, steps=(40.0,), step_weights=(1.0,))
    trapped = inject(defence.classifier, small)
    few = digits_test.take(4)
    assert [*figure_4(trapped, few).numbers["shown"]] == ["40"]
    assert figure_7b(trapped, few, delta=1.0, samples=9).numbers["step"] == 40
