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

from keras_traps.attractors import CONDITIONS, ForensicAnalyzer, decoder_of
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder
from tests.attractors.conftest import clean, decoder, noise


@pytest.mark.parametrize("fpr", [0.005, 0.9])
@pytest.mark.parametrize("count", [199, 200, 1297])
def test_the_three_conditions_together_flag_the_share_asked_for(
    count: int, fpr: float
) -> None:
    analyzer = ForensicAnalyzer(decoder())
    for seed in range(3):
        w = noise(count, seed)
        analyzer.fit_correlations(w, fpr=fpr)
        flagged = analyzer.judge(w).is_adversarial.sum()
        # The rank that leaves a new image above it with probability fpr at most.
        assert flagged == math.floor((count + 1) * fpr + 1e-9) - 1
        assert fpr - 2 / count < flagged / count <= fpr


def test_a_new_clean_image_is_flagged_at_the_rate_asked_for() -> None:
    analyzer = ForensicAnalyzer(decoder())
    rates = [
        analyzer.fit_correlations(noise(999, seed), fpr=0.05)
        .judge(noise(1000, seed + 1000))
        .is_adversarial.mean()
        for seed in range(100)
    ]
    assert np.mean(rates) == pytest.approx(0.05, abs=0.003)


def test_thresholds_are_where_the_score_is_the_same_for_each_condition() -> None:
    w = noise(500)
    t = ForensicAnalyzer(decoder()).fit_correlations(w, fpr=0.1).thresholds
    statistics = np.stack([w.max(1), -w.min(1), w.astype(np.float64).std(1)], axis=1)
    np.testing.assert_allclose(t.centre, statistics.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(t.scale, statistics.std(axis=0), rtol=1e-5)
    limits = np.array([t.upper, -t.lower, t.deviation])
    np.testing.assert_allclose((limits - t.centre) / t.scale, t.score, rtol=1e-9)
    assert (t.fpr, t.num_images) == (0.1, 500)


def test_conditions_are_those_of_the_paper() -> None:
    analyzer = ForensicAnalyzer(decoder()).fit_correlations(noise(300), fpr=0.2)
    t = analyzer.thresholds
    w = 1.2 * noise(200, 1)
    verdict = analyzer.judge(w)
    fired = set()
    for row, found, flagged in zip(
        w, verdict.fired, verdict.is_adversarial, strict=True
    ):
        values = [float(value) for value in row]
        mean = sum(values) / 5
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 5)
        expected = [
            max(values) > t.upper,
            min(values) < t.lower,
            deviation > t.deviation,
        ]
        assert found.tolist() == expected
        assert flagged == any(expected)
        fired |= {name for name, held in zip(CONDITIONS, expected, strict=True) if held}
    assert fired == {"C1", "C2", "C3"}


def test_a_score_above_the_threshold_is_an_adversarial_one() -> None:
    w = noise(1000)
    analyzer = ForensicAnalyzer(decoder()).fit_correlations(w, fpr=0.1)
    verdict = analyzer.judge(w)
    assert verdict.score.dtype == np.float32
    clear = np.abs(verdict.score - analyzer.thresholds.score) > 1e-5
    assert clear.sum() >= 998
    np.testing.assert_array_equal(
        verdict.score[clear] > analyzer.thresholds.score, verdict.is_adversarial[clear]
    )


def test_recovered_is_the_class_of_lowest_correlation(fitted: ForensicAnalyzer) -> None:
    images = clean(200, seed=5)
    images[:8] = np.random.default_rng(0).integers(0, 2, images[:8].shape)
    expected = [int(row.argmin()) for row in fitted.correlations(images)]
    recovered = fitted.recover(images)
    verdict = fitted.detect(images)
    assert recovered.tolist() == expected
    # Where nothing is flagged there is nothing to recover.
    assert 0 < verdict.is_adversarial.sum() < 200
    of_flagged = np.where(verdict.is_adversarial, expected, -1)
    np.testing.assert_array_equal(verdict.recovered, of_flagged)
    assert recovered.dtype == np.int64
    assert set(expected) == set(range(5))


def test_correlations_are_the_decoders_for_any_batch_size() -> None:
    layer, images = decoder(), clean(37)
    analyzer = ForensicAnalyzer(layer)
    expected = layer(images)
    for batch_size in (1, 10, 37, 1000):
        result = analyzer.correlations(images, batch_size=batch_size)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


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
    assert verdict.fired[:, CONDITIONS.index("C2")].mean() > 0.95
    assert (verdict.recovered == labels).mean() > 0.95
    assert analyzer.detect(images).is_adversarial.mean() < 0.12


@pytest.mark.parametrize(("fpr", "needed"), [(0.05, 19), (0.01, 99), (0.3, 3)])
def test_too_few_images_say_how_many_are_needed(fpr: float, needed: int) -> None:
    analyzer = ForensicAnalyzer(decoder())
    with pytest.raises(ValueError, match=rf"at least {needed} clean.*{needed - 1} im"):
        analyzer.fit(clean(needed - 1), fpr=fpr)
    assert analyzer.fit(clean(needed), fpr=fpr).thresholds.num_images == needed


def test_an_analyzer_that_was_not_fitted_says_so(tmp_path: Path) -> None:
    analyzer, images = ForensicAnalyzer(decoder()), clean(2)
    for use in (
        lambda: analyzer.thresholds,
        lambda: analyzer.detect(images),
        lambda: analyzer.score(images),
        lambda: analyzer.save(tmp_path / "analyzer.json"),
    ):
        with pytest.raises(RuntimeError, match="call `fit` first"):
            use()
    assert list(tmp_path.iterdir()) == []
    assert analyzer.recover(images).shape == (2,)


def test_a_file_gives_the_same_verdicts(
    fitted: ForensicAnalyzer, tmp_path: Path
) -> None:
    path = tmp_path / "analyzer.json"
    path.write_text("an older one")
    fitted.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["analyzer.json"]
    loaded = ForensicAnalyzer.load(str(path), decoder())
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
        lambda text: text.replace("analyzer.v1", "analyzer.v2"),
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
        ForensicAnalyzer.load(path, decoder())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upper", None),
        ("upper", math.nan),
        ("lower", True),
        ("fpr", 1.0),
        ("num_images", 0),
        ("centre", [0.1, 0.2]),
        ("scale", [0.1, 0.2, 0.0]),
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
        ForensicAnalyzer.load(path, decoder())


def test_what_cannot_be_analyzed_is_refused(
    fitted: ForensicAnalyzer, tmp_path: Path
) -> None:
    def refused(match: str, call: Callable[..., Any], *given: Any, **more: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=match):
            call(*given, **more)

    analyzer = ForensicAnalyzer(decoder())
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
        refused(r"shape \(batch, 6, 6, 1\)", fitted.correlations, images)
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    refused("without a QIM decoder", ForensicAnalyzer, plain)
    refused(r"decoder that is built.*w", ForensicAnalyzer, QIMDecoder(10, name="w"))
    unbuilt = keras.Sequential([QIMDecoder(10)])
    refused("decoder that is built", ForensicAnalyzer, unbuilt)
    path = tmp_path / "analyzer.json"
    fitted.save(path)
    other = decoder(2)
    refused(other.fingerprint[:12], ForensicAnalyzer.load, path, other)
    with pytest.raises(FileNotFoundError):
        ForensicAnalyzer.load(tmp_path / "none.json", other)


def test_an_analyzer_can_be_pickled_and_copied(fitted: ForensicAnalyzer) -> None:
    images = clean(8, seed=6)
    expected = fitted.detect(images)
    for again in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert again.decoder.fingerprint == fitted.decoder.fingerprint
        np.testing.assert_array_equal(again.detect(images).score, expected.score)
