import copy
import dataclasses
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attractors import (
    CONDITIONS,
    Calibration,
    ForensicAnalyzer,
    Thresholds,
    decoder_of,
    inject,
)
from keras_traps.datasets import Dataset
from keras_traps.models.inference import predict
from tests.attractors.conftest import across_the_border, clean, noise, tiny


@pytest.mark.parametrize("fpr", [0.005, 0.9])
@pytest.mark.parametrize("count", [199, 200, 1297])
def test_the_four_conditions_together_flag_the_share_asked_for(
    count: int, fpr: float
) -> None:
    analyzer = ForensicAnalyzer(tiny())
    for seed in range(3):
        w = noise(count, seed)
        analyzer.fit_evidence(w, fpr=fpr)
        flagged = analyzer.judge(w).is_adversarial.sum()
        # The rank that leaves a new image above it with probability fpr at most.
        assert flagged == math.floor((count + 1) * fpr + 1e-9) - 1
        assert fpr - 2 / count < flagged / count <= fpr


def test_a_new_clean_image_is_flagged_at_the_rate_asked_for() -> None:
    analyzer = ForensicAnalyzer(tiny())
    rates = [
        analyzer.fit_evidence(noise(999, seed), fpr=0.05)
        .judge(noise(1000, seed + 1000))
        .is_adversarial.mean()
        for seed in range(100)
    ]
    assert np.mean(rates) == pytest.approx(0.05, abs=0.003)


def test_thresholds_are_where_the_score_is_the_same_for_each_condition() -> None:
    evidence = noise(500)
    t = ForensicAnalyzer(tiny()).fit_evidence(evidence, fpr=0.1).thresholds
    w, logits = np.moveaxis(evidence.astype(np.float64), 1, 0)
    second, first = np.sort(logits, axis=1)[:, -2:].T
    leads = -np.log(first - second)
    statistics = np.stack([w.max(1), -w.min(1), w.std(1), leads], axis=1)
    np.testing.assert_allclose(t.centre, statistics.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(t.scale, statistics.std(axis=0), rtol=1e-5)
    limits = np.array([t.upper, -t.lower, t.deviation, -np.log(t.lead)])
    np.testing.assert_allclose(t.limits, limits, rtol=1e-12)
    np.testing.assert_allclose((limits - t.centre) / t.scale, t.score, rtol=1e-9)
    assert (t.fpr, t.num_images) == (0.1, 500)


def test_conditions_are_those_of_the_paper_and_the_lead() -> None:
    analyzer = ForensicAnalyzer(tiny()).fit_evidence(noise(300), fpr=0.2)
    t = analyzer.thresholds
    evidence = noise(200, 1) * np.array([[[1.2], [1.0]]], np.float32)
    verdict = analyzer.judge(evidence)
    fired = set()
    for (w, logits), found, flagged, recovered in zip(
        evidence,
        verdict.fired,
        verdict.is_adversarial,
        verdict.recovered,
        strict=True,
    ):
        values = [float(value) for value in w]
        mean = sum(values) / 5
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 5)
        *_, second, best = np.argsort(logits)
        expected = [
            max(values) > t.upper,
            min(values) < t.lower,
            deviation > t.deviation,
            float(logits[best]) - float(logits[second]) < t.lead,
        ]
        assert found.tolist() == expected
        assert flagged == any(expected)
        by_lead = second if expected[3] else -1
        assert recovered == (np.argmin(w) if any(expected[:3]) else by_lead)
        fired.add(tuple(expected))
    # Each of them, and C4 alone.
    assert np.any(list(fired), axis=0).all()
    assert (False, False, False, True) in fired


def test_a_score_above_the_threshold_is_an_adversarial_one() -> None:
    w = noise(1000)
    analyzer = ForensicAnalyzer(tiny()).fit_evidence(w, fpr=0.1)
    verdict = analyzer.judge(w)
    assert verdict.score.dtype == np.float32
    clear = np.abs(verdict.score - analyzer.thresholds.score) > 1e-5
    assert clear.sum() >= 998
    np.testing.assert_array_equal(
        verdict.score[clear] > analyzer.thresholds.score, verdict.is_adversarial[clear]
    )


def test_evidence_is_the_decoders_and_the_classifiers_for_any_batch_size() -> None:
    trapped, images = tiny(), clean(37)
    analyzer = ForensicAnalyzer(trapped)
    parts = decoder_of(trapped), trapped.get_layer("classifier")
    expected = np.stack([np.asarray(part(images)) for part in parts], axis=1)
    for batch_size in (1, 10, 37, 1000):
        result = analyzer.evidence(images, batch_size=batch_size)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_evidence_has_logarithms_of_probabilities(
    activation: str, calibration: Calibration
) -> None:
    inputs = keras.Input((8, 8, 1))
    draw = keras.initializers.RandomNormal(stddev=3, seed=0)
    head = keras.layers.Dense(
        1 if activation == "sigmoid" else 10, activation, kernel_initializer=draw
    )
    model = keras.Model(inputs, head(keras.layers.Flatten()(inputs)))
    settings = dataclasses.replace(calibration.settings, output="probabilities")
    images = clean(50, size=8)
    evidence = ForensicAnalyzer(inject(model, settings)).evidence(images)
    shares = predict(model, images)
    if activation == "sigmoid":
        shares = np.hstack([1 - shares, shares])
    np.testing.assert_allclose(np.exp(evidence[:, 1]), shares, rtol=1e-4, atol=1e-7)
    # Even where a probability is 0.
    assert np.isfinite(evidence).all()


def test_an_image_on_the_border_of_c_is_flagged_and_the_class_behind_it_recovered(
    trapped: keras.Model, digits_train: Dataset, digits_test: Dataset
) -> None:
    analyzer = ForensicAnalyzer(trapped).fit(digits_train.images)
    images, before, after = across_the_border(trapped, analyzer, digits_test)
    verdict = analyzer.detect(images)
    assert verdict.is_adversarial.all()
    assert (predict(trapped, images).argmax(axis=1) == after).mean() > 0.95
    alone = (verdict.fired == [False, False, False, True]).all(axis=1)
    assert alone.mean() > 0.5
    np.testing.assert_array_equal(verdict.recovered[alone], before[alone])


def test_an_attractor_is_flagged_for_its_high_correlation(
    trapped: keras.Model, digits_train: Dataset, digits_test: Dataset
) -> None:
    target = 2
    analyzer = ForensicAnalyzer(trapped).fit(digits_train.images)
    images = digits_test.images[digits_test.labels != target][:40]
    moved = decoder_of(trapped).attractors(images, tf.fill([40], target))
    verdict = analyzer.detect(moved)
    assert verdict.is_adversarial.all()
    assert verdict.fired[:, CONDITIONS.index("C1")].all()
    assert (verdict.recovered != target).all()
    assert verdict.score.min() > analyzer.score(images).max()


def test_an_image_led_away_from_its_class_is_flagged_and_its_class_recovered(
    trapped: keras.Model, digits_train: Dataset, digits_test: Dataset
) -> None:
    analyzer = ForensicAnalyzer(trapped).fit(digits_train.images)
    images, labels = digits_test.images[:100], digits_test.labels[:100]
    x = tf.constant(images)
    for _ in range(20):
        with tf.GradientTape() as tape:
            tape.watch(x)
            own = tf.reduce_sum(analyzer.decoder(x) * tf.one_hot(labels, 10))
        x = tf.clip_by_value(x - 0.01 * tf.sign(tape.gradient(own, x)), 0.0, 1.0)
    verdict = analyzer.detect(x)
    assert verdict.is_adversarial.mean() > 0.95
    # Of four joint conditions each is a little further out than of three.
    assert verdict.fired[:, CONDITIONS.index("C2")].mean() > 0.9
    assert (verdict.recovered == labels).mean() > 0.95
    assert analyzer.detect(images).is_adversarial.mean() < 0.12


@pytest.mark.parametrize(("fpr", "needed"), [(0.05, 19), (0.01, 99), (0.3, 3)])
def test_too_few_images_say_how_many_are_needed(fpr: float, needed: int) -> None:
    analyzer = ForensicAnalyzer(tiny())
    with pytest.raises(ValueError, match=rf"at least {needed} clean.*{needed - 1} im"):
        analyzer.fit(clean(needed - 1), fpr=fpr)
    assert analyzer.fit(clean(needed), fpr=fpr).thresholds.num_images == needed


def test_an_analyzer_that_was_not_fitted_says_so(tmp_path: Path) -> None:
    analyzer, images = ForensicAnalyzer(tiny()), clean(2)
    for use in (
        lambda: analyzer.thresholds,
        lambda: analyzer.detect(images),
        lambda: analyzer.score(images),
        lambda: analyzer.save(tmp_path / "analyzer.json"),
    ):
        with pytest.raises(RuntimeError, match="call `fit` first"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_a_file_gives_the_same_verdicts(
    fitted: ForensicAnalyzer, tmp_path: Path
) -> None:
    path = tmp_path / "analyzer.json"
    path.write_text("an older one")
    fitted.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["analyzer.json"]
    loaded = ForensicAnalyzer.load(str(path), tiny())
    assert loaded.thresholds == fitted.thresholds
    images = clean(100, seed=4)
    mine, its = fitted.detect(images), loaded.detect(images)
    for field in dataclasses.fields(mine):
        np.testing.assert_array_equal(
            getattr(mine, field.name), getattr(its, field.name)
        )


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace("analyzer.v2", "analyzer.v1"),
        lambda text: text.replace('"decoder"', '"coder"'),
        lambda text: text.replace('"decoder": "', '"decoder": 1, "x": "'),
        lambda text: text.replace('"upper"', '"uper"'),
        lambda text: text.replace('"fpr"', '"extra": 1, "fpr"'),
    ],
)
def test_a_damaged_file_is_named(
    fitted: ForensicAnalyzer, tmp_path: Path, damage: Any
) -> None:
    path = tmp_path / "analyzer.json"
    fitted.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"analyzer\.json is not a saved analyzer"):
        ForensicAnalyzer.load(path, tiny())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upper", None),
        ("upper", math.nan),
        ("lower", True),
        ("fpr", 1.0),
        ("num_images", 0),
        ("lead", 0.0),
        ("lead", math.inf),
        ("centre", [0.1, 0.2, 0.3]),
        ("scale", [0.1, 0.2, 0.3, 0.0]),
    ],
)
def test_a_file_whose_thresholds_are_no_finite_numbers_is_damaged(
    fitted: ForensicAnalyzer, tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "analyzer.json"
    fitted.save(path)
    content = json.loads(path.read_text())
    content["thresholds"][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"analyzer\.json is not a saved analyzer"):
        ForensicAnalyzer.load(path, tiny())


def test_what_cannot_be_analyzed_is_refused(
    fitted: ForensicAnalyzer, tmp_path: Path
) -> None:
    def refused(match: str, call: Callable[..., Any], *given: Any, **more: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=match):
            call(*given, **more)

    analyzer = ForensicAnalyzer(tiny())
    for batch_size in (0, True):
        refused("argument `batch_size`", analyzer.fit, clean(3), batch_size=batch_size)
    for fpr in (0.0, 1.0, math.nan, True):
        refused("argument `fpr`", analyzer.fit, clean(100), fpr=fpr)
    refused("clean images that differ", analyzer.fit, np.repeat(clean(1), 100, axis=0))
    refused("floating point", fitted.detect, np.zeros((2, 6, 6, 1), np.uint8))
    refused(r"pixels in \[0, 1\]", fitted.detect, 2 * clean(2))
    # As many values, but not where the messages have them.
    for shape in ((2, 1, 6, 6), (2, 4, 9, 1), (2, 36)):
        images = clean(2).reshape(shape)
        refused(r"shape \(batch, 6, 6, 1\)", fitted.evidence, images)
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    refused("without a QIM decoder", ForensicAnalyzer, plain)
    refused("without a QIM decoder", ForensicAnalyzer, fitted.decoder)
    path = tmp_path / "analyzer.json"
    fitted.save(path)
    other = tiny(2)
    fingerprint = decoder_of(other).fingerprint[:12]
    refused(fingerprint, ForensicAnalyzer.load, path, other)
    with pytest.raises(FileNotFoundError):
        ForensicAnalyzer.load(tmp_path / "none.json", other)


def test_an_analyzer_can_be_pickled_and_copied(fitted: ForensicAnalyzer) -> None:
    images = clean(8, seed=6)
    expected = fitted.detect(images)
    for again in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert again.decoder.fingerprint == fitted.decoder.fingerprint
        np.testing.assert_array_equal(again.detect(images).score, expected.score)


@pytest.mark.parametrize(
    ("correlations", "logits", "scale", "slope"),
    [
        # C1: the highest; C2: the lowest; C3: their spread; C4: the lead of two logits.
        ([2.0, 0.5, 0.0], [9.0, 0.0, 0.0], (1, 1, 9, 1), [[1, 0, 0], [0, 0, 0]]),
        ([0.0, 0.5, -2.0], [9.0, 0.0, 0.0], (1, 1, 9, 1), [[0, 0, -1], [0, 0, 0]]),
        (
            [1.0, 0.0, -1.0],
            [9.0, 0.0, 0.0],
            (9, 9, 1, 1),
            [[6**-0.5, 0, -(6**-0.5)], [0, 0, 0]],
        ),
        ([0.0, 0.0, 0.0], [1.25, 1.0, 0.0], (1, 1, 1, 1), [[0, 0, 0], [-4, 4, 0]]),
    ],
)
def test_who_follows_the_score_lowers_the_condition_that_is_worst(
    correlations: list[float],
    logits: list[float],
    scale: tuple[float, ...],
    slope: list[list[float]],
) -> None:
    found = Thresholds(
        *(1.0, -1.0, 1.0, 1.0, 0.05, 100),
        centre=(0.0,) * 4,
        scale=tuple(map(float, scale)),
        score=1.0,
    )
    evidence = tf.constant([[correlations, logits]])
    with tf.GradientTape() as tape:
        tape.watch(evidence)
        score = found.tf_score(evidence)
    np.testing.assert_allclose(score, found.judge(evidence).score)
    np.testing.assert_allclose(tape.gradient(score, evidence)[0], slope, atol=1e-6)
