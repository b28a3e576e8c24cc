import dataclasses

import numpy as np
from figures.density import figure_7b
from figures.drawing import to_png
from figures.illustrations import figure_1, figure_2, figure_4
from figures.strength import figure_5

from keras_traps import attacks, calibrate, inject
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence


def test_figure_1_has_the_soft_label_of_c_and_of_m(
    defence: Defence, digits_test: Dataset
) -> None:
    numbers = figure_1(defence.trapped, digits_test).numbers
    assert len(set(numbers["classes"])) == 2
    low, high = numbers["soft_label_c"]
    assert 0 <= low < high <= 1
    assert np.diff(numbers["soft_label_m"]) > 0


def test_figure_2_shows_what_is_computed(
    defence: Defence, digits_test: Dataset
) -> None:
    analyzer = defence.analyzers[0.005]
    attack = attacks.create("FGSM", eps=0.3)
    result = figure_2(defence.trapped, analyzer, digits_test, attack)
    numbers = result.numbers
    total = np.array(numbers["c"]) + np.array(numbers["w"])
    expected = total / np.abs(total).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(numbers["m"], expected, atol=1e-5)
    names = digits_test.class_names
    assert numbers["answers"] == [names[k] for k in expected.argmax(axis=1)]
    assert numbers["answers"][0] == numbers["label"] != numbers["answers"][1]
    assert "thresholds L and U at 0.5 % false positives" in result.text
    judged = analyzer.judge(np.array(numbers["w"], np.float32))
    assert numbers["flagged"] == judged.is_adversarial.tolist()


def test_figure_4_shows_every_step(defence: Defence, digits_test: Dataset) -> None:
    shown = figure_4(defence.trapped, digits_test).numbers["shown"]
    assert shown["128"] == [0.0, 255.0]
    low, high = shown["3"]
    assert 0 <= low < high <= 255
    assert high - low == 15


def test_figure_5_has_the_norms_of_outputs_and_gradients(
    defence: Defence, digits_test: Dataset
) -> None:
    few = digits_test.take(60)
    result = figure_5(defence, few)
    output, gradient = result.numbers["output"], result.numbers["gradient"]
    logits = np.abs(defence.classifier(few.images).numpy()).sum(axis=1)
    np.testing.assert_allclose(output["classifier"]["median"], np.median(logits), 1e-5)
    w = defence.trapped.get_layer("qim_decoder")(few.images).numpy()
    apart = np.abs(w - w.mean(axis=1, keepdims=True)).sum(axis=1)
    np.testing.assert_allclose(
        output["decoder_apart"]["median"], np.median(apart), 1e-4
    )
    larger = float((logits > np.abs(w).sum(axis=1)).mean())
    assert result.numbers["output_larger_in_c"] == larger
    assert gradient["decoder"]["median"] > gradient["classifier"]["low"] > 0


def test_a_decoder_of_one_step_has_figures_too(
    defence: Defence, digits_train: Dataset, digits_test: Dataset
) -> None:
    made = calibrate(
        defence.classifier,
        digits_train.images,
        output="logits",
        steps=(40.0,),
        budget=0.005,
    )
    trapped = inject(defence.classifier, made.settings)
    other = dataclasses.replace(defence, trapped=trapped)
    for result in (
        figure_4(other.trapped, digits_test),
        figure_7b(other.trapped, digits_test.take(4), delta=1.0, samples=9),
    ):
        (picture,) = result.pictures.values()
        assert to_png(picture).startswith(b"\x89PNG")
