import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_traps import attacks, inject
from keras_traps.attractors import (
    Calibration,
    ForensicAnalyzer,
    TrapSettings,
    decoder_of,
)
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures import ablation as module
from keras_traps.evaluation.figures.ablation import ablation, choices
from keras_traps.evaluation.figures.direction_variants import heavy_on_the_large_step
from keras_traps.evaluation.figures.two_scales import (
    TwoScaleDecoder,
    TwoScaleSettings,
    answers_as_summed,
    calibrate_two_scales,
)
from keras_traps.layers import QIMDecoder

LIKE = TrapSettings(
    output="logits", a0=-1e-3, a1=-1.0, a2=0.5, step_weights=(2.0, 1.0), seed=4
)


def test_each_choice_changes_what_its_name_says(
    digits_defence: Defence, digits_calibration: Calibration, digits_train: Dataset
) -> None:
    found = {
        (choice.group, choice.name): choice.settings
        for choice in choices(digits_defence, digits_calibration, digits_train)
    }
    assert {group for group, _ in found} == {
        "this project's",
        "pixels of step 3",
        "pixels",
        "share of the small step",
        "temperature",
        "C in the sum",
        "norm",
        "C and norm",
        "messages",
        "seed of messages and steps",
    }
    first = next(iter(found.values()))()
    usual = digits_calibration.settings
    assert first.step_weights == pytest.approx(usual.step_weights)
    assert (first.steps, first.seed, first.ord) == (usual.steps, 0, 1)
    assert found["pixels of step 3", "all pixels 3"]().steps == (3.0,)
    assert found["pixels of step 3", "two in three"]().steps == (3.0, 3.0, 128.0)
    # The weight follows the share.
    more = found["share of the small step", "1"]().step_weights[0]
    assert more == pytest.approx(2 * first.step_weights[0])
    assert found["temperature", "0.1"]().temperature == 0.1
    assert not found["C in the sum", "logits"]().soft_labels
    assert found["norm", "L2"]().ord == 2
    assert found["messages", "every bit alone"]().messages == "random"
    assert found["seed of messages and steps", "2"]().seed == 2
    both = found["pixels", "both steps on every pixel"]()
    assert isinstance(both, TwoScaleSettings)


def test_the_share_is_that_of_the_calibration(
    digits_defence: Defence, digits_calibration: Calibration, digits_train: Dataset
) -> None:
    other = dataclasses.replace(digits_calibration, small_step_share=0.1)
    found = choices(digits_defence, other, digits_train)
    assert "share 0.1" in found[0].name
    usual, first = (
        rows[0].settings().step_weights[0]
        for rows in (choices(digits_defence, digits_calibration, digits_train), found)
    )
    assert first == pytest.approx(usual / 5)
    varied = [c.name for c in found if c.group == "share of the small step"]
    assert "0.1" not in varied

    unknown = dataclasses.replace(digits_calibration, small_step_share=None)
    with pytest.raises(ValueError, match=r"argument `calibration`.*small_step_share"):
        choices(digits_defence, unknown, digits_train)


def test_the_border_is_that_of_the_calibration(
    digits_defence: Defence, digits_calibration: Calibration, digits_train: Dataset
) -> None:
    settings = dataclasses.replace(digits_calibration.settings, border_weight=2.0)
    other = dataclasses.replace(digits_calibration, settings=settings)
    found = choices(digits_defence, other, digits_train)
    assert "border 2" in found[0].name
    both = next(c for c in found if c.group == "pixels")
    assert found[0].settings().border_weight == both.settings().border_weight == 2
    heavy = heavy_on_the_large_step(digits_defence, other, digits_train)
    assert decoder_of(heavy.defence.trapped).border_weight == 2


def test_every_choice_is_one_row(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
    digits_test: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = choices(digits_defence, digits_calibration, digits_train)[4:6]
    monkeypatch.setattr(module, "choices", lambda *_: some)
    study = ablation(
        digits_defence,
        digits_calibration,
        attacks.preset("digits", ["FGSM"]),
        digits_train,
        digits_test.take(100),
        num_attacked=8,
    )
    rows = study.numbers["rows"]
    json.dumps(study.numbers, allow_nan=False)
    assert [(row["group"], row["name"]) for row in rows] == [
        ("pixels of step 3", "all pixels 128"),
        ("pixels", "both steps on every pixel"),
    ]
    assert rows[0]["step_weights"] == [1.0]
    for row in rows:
        assert 0 <= row["FGSM"]["unnoticed"][0] <= row["FGSM"]["unnoticed"][1]
        assert row["FGSM"]["unnoticed"][1] <= row["FGSM"]["fooled"] <= 1
        recovered = row["FGSM"]["recovered"]
        assert recovered is None or 0 <= recovered <= 1
    assert study.numbers["attacked"] == 8


def test_the_distances_of_two_scales_add_up() -> None:
    decoder = TwoScaleDecoder(
        3, seed=4, steps=(3.0, 128.0), step_weights=(2.0, 0.5), a0=-1e-3, a1=-1.0
    )
    decoder.build((None, 4, 4, 1))
    x = tf.constant(np.random.default_rng(0).random((5, 4, 4, 1)), tf.float32)
    small, large = (
        QIMDecoder.from_seed(
            seed, num_classes=3, shape=(4, 4, 1), steps=(step,), step_weights=(weight,)
        ).distances(x)
        for seed, step, weight in ((4, 3.0, 2.0), (4 + 2**32, 128.0, 0.5))
    )
    np.testing.assert_allclose(decoder.distances(x), small + large, rtol=1e-5)
    u = -1e-3 * (small + large) + 1.0
    np.testing.assert_allclose(decoder(x), np.tanh(u / (1 - u)), rtol=1e-3)


@pytest.mark.parametrize("border_weight", [1.0, 2.0])
def test_two_scales_are_calibrated_by_the_same_rules(
    digits_defence: Defence, digits_train: Dataset, border_weight: float
) -> None:
    images = digits_train.images
    like = dataclasses.replace(LIKE, border_weight=border_weight)
    answers = answers_as_summed(digits_defence.classifier, like, images)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    settings = calibrate_two_scales(
        like, answers, images, small_step_share=0.5, budget=0.002
    )
    trapped = inject(digits_defence.classifier, settings)
    changed = np.mean(trapped(images).numpy().argmax(1) != answers.argmax(1))
    assert changed <= 0.002
    decoder = trapped.get_layer("qim_decoder")
    assert isinstance(decoder, TwoScaleDecoder)
    assert decoder.border_weight == decoder.other.border_weight == border_weight
    u = settings.a0 * decoder.distances(images).numpy() - settings.a1
    assert u.mean() == pytest.approx(0.3, abs=1e-3)
    assert (np.abs(u - u.mean()) < 0.1001).mean() == pytest.approx(0.999, abs=1e-3)
    analyzer = ForensicAnalyzer(trapped).fit(images)
    assert analyzer.detect(images).is_adversarial.mean() < 0.06


def test_two_scales_need_two_steps(digits_train: Dataset) -> None:
    like = TrapSettings(
        output="logits", a0=-1.0, a1=0.0, a2=1.0, steps=(3.0,), step_weights=(1.0,)
    )
    with pytest.raises(ValueError, match="argument `like`"):
        calibrate_two_scales(
            like,
            np.ones((2, 3), np.float32),
            digits_train.images[:2],
            small_step_share=0.5,
            budget=0.1,
        )
