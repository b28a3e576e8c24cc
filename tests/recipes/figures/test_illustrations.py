import numpy as np
from figures.density import figure_7b
from figures.drawing import to_png
from figures.illustrations import figure_1, figure_2, figure_4

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
    assert result.words == {"attack": "FGSM", "fpr": "0.5"}
    flagged = analyzer.judge(numbers["w"]).is_adversarial
    assert numbers["flagged"].tolist() == flagged.tolist()


def test_figure_4_shows_every_step(defence: Defence, digits_test: Dataset) -> None:
    shown = figure_4(defence.trapped, digits_test).numbers["shown"]
    assert shown["128"] == (0.0, 255.0)
    low, high = shown["3"]
    assert 0 <= low < high <= 255
    assert high - low == 15


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
    for result in (
        figure_4(trapped, digits_test),
        figure_7b(trapped, digits_test.take(4), delta=1.0, samples=9),
    ):
        (picture,) = result.pictures.values()
        assert to_png(picture).startswith(b"\x89PNG")
