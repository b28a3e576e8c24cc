import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import app, flags

from benchmarks import (
    _measure,
    calibration,
    detectors,
    false_positives,
    luring,
    overhead,
    qim,
    serving,
    tracing,
)
from keras_traps.attractors import Calibration
from keras_traps.datasets import Dataset
from keras_traps.detectors import TabooTrap

TINY = qim.Size(images=300, side=4, channels=3, messages=3)
FUSED = [name for name in qim.DECODERS if name != "literal broadcast"]


def run(module: ModuleType, *arguments: str) -> None:
    values = module.define_flags(flags.FlagValues())
    module.main(values(["benchmark", *arguments]), values)


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_decoder_returns_what_the_literal_one_does(name: str) -> None:
    arguments = qim.inputs(TINY)
    literal, literal_both = qim.calls(qim.literal_decode, arguments)
    fused, fused_both = qim.calls(qim.DECODERS[name], arguments)
    np.testing.assert_allclose(fused(), literal(), rtol=1e-4, atol=1e-5)
    for fused_part, literal_part in zip(fused_both(), literal_both(), strict=True):
        np.testing.assert_allclose(fused_part, literal_part, rtol=1e-3, atol=1e-6)


def test_the_correlations_that_are_compared_are_spread_and_not_cut_off() -> None:
    arguments = qim.inputs(TINY)
    correlations = qim.literal_decode(*arguments).numpy()
    assert correlations.shape == (300, 3)
    assert np.abs(correlations).max() < 0.99
    assert correlations.std() > 0.05


def test_the_decoders_table_has_all_rows_and_numbers() -> None:
    rows = qim.measure(TINY, repeats=1, memory=False)
    reading, writing, *decoders = rows
    assert reading["forward_ms"] > 0
    assert writing["gradient_readings"] > 0
    assert [row["name"] for row in decoders] == list(qim.DECODERS)
    for row in decoders:
        for way in ("forward", "gradient"):
            for number in ("ms", "readings", "speedup"):
                assert row[f"{way}_{number}"] > 0
    assert rows[-1]["forward_speedup"] == rows[-1]["gradient_speedup"] == 1


def test_without_the_formula_as_it_stands_no_messages_are_written_out() -> None:
    _, secrets, *_ = qim.inputs(TINY, literal=False)
    assert secrets.bits.shape == ()
    rows = qim.measure(TINY, repeats=1, memory=False, literal=False)
    assert [row["name"] for row in rows[2:]] == FUSED
    assert all("forward_speedup" not in row for row in rows)


def test_a_saved_detector_is_timed_beside_its_classifier(
    digits_classifier: keras.Model, digits_train: Dataset, tmp_path: Path
) -> None:
    taboo = TabooTrap(digits_classifier, output="logits").fit(digits_train.images)
    taboo.save(tmp_path / "taboo")
    digits_classifier.save(tmp_path / "taboo" / "classifier.keras")
    (tmp_path / "taboo" / "about.json").write_text('{"seconds": 2.5}')
    calls = detectors._calls(tmp_path / "taboo", 4)
    np.testing.assert_array_equal(calls["score"]().shape, [4])
    assert calls["bare"]().shape == (4, 10)
    bare, score = detectors.measure_detector(tmp_path / "taboo", 4, repeats=1)
    assert (bare["name"], score["name"]) == ("classifier of taboo", "taboo")
    assert score["fit_s"] == 2.5
    assert score["ratio"] > 0
    assert "ratio" not in bare


def test_non_local_means_are_timed() -> None:
    rows = detectors.measure_means(1, repeats=1)
    assert rows[0]["name"] == "non-local means"
    assert rows[0]["image_ms"] > 0


def test_false_positives_are_counted_on_images_that_set_no_threshold(
    digits_classifier: keras.Model,
    digits_calibration: Calibration,
    digits_train: Dataset,
    digits_test: Dataset,
) -> None:
    data = digits_train.take(601), digits_test.take(450)
    rows = false_positives.measure(
        digits_classifier, digits_calibration.settings, *data, repeats=3
    )
    assert [(row["name"], row["counted"]) for row in rows] == [
        ("300 training images", "301 other training images"),
        ("300 training images", "450 other test images"),
        ("225 test images", "225 other test images"),
    ]
    # Random halves of one set: about the rate, within four standard deviations.
    assert rows[0]["fpr_0.05"] == pytest.approx(0.05, abs=4 * (0.05 / 300) ** 0.5)
    assert 0 <= rows[0]["fpr_0.005"] < 0.03


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_counted_in_inputs_in_a_process_of_its_own() -> None:
    # One distance per image, message and pixel: 32 inputs, less what malloc had left.
    size = qim.Size(images=256, side=32, channels=1, messages=32)
    forward, gradient = qim.memory_of("literal broadcast", size)
    assert 24 < forward < gradient


@pytest.mark.slow
def test_the_loops_train_as_fit_does() -> None:
    size = luring.Size(batch_size=4, steps=3, width=0.05)
    model, answered = luring.lured(size)
    plain = tf.data.Dataset.from_tensor_slices(size.images).batch(size.batch_size)
    loops = {
        compiled: luring.plain_loop(
            luring.plain_step(size.width, compiled=compiled), plain
        )
        for compiled in (True, False)
    }
    losses = [
        model.train_on_batch(images, told, return_dict=True)["loss"]
        for images, told in answered
        if model.reset_metrics() is None
    ]
    assert losses[0] != losses[-1]
    for loop in loops.values():
        np.testing.assert_allclose(loop, losses, rtol=1e-4)


def test_every_call_is_timed_once_per_round_in_alternating_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_measure, "_SHORTEST_TIMING", 1e-9)
    order: list[str] = []

    def noting(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    times = _measure.time_calls({name: noting(name) for name in "ab"}, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(own) for name, own in times.items()} == {"a": 3, "b": 3}


def test_a_short_call_is_timed_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "_SHORTEST_TIMING", 0.01)
    calls: list[None] = []
    times = _measure.time_calls({"a": lambda: calls.append(None)}, 1)
    assert len(times["a"]) == 1
    assert len(calls) > 2


def test_calls_are_timed_by_the_clock_that_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_measure, "_SHORTEST_TIMING", 1e-9)
    hands = iter([0.0, 5.0, 5.0, 8.0])
    times = _measure.time_calls({"a": lambda: None}, 2, clock=lambda: next(hands))
    assert times == {"a": [5.0, 3.0]}


def test_calls_are_compared_round_by_round_with_the_base() -> None:
    # The median of the rounds' ratios, not the ratio of the times' medians.
    times = {"base": [1.0, 10.0, 400.0], "slow": [2.0, 30.0, 400.0]}
    assert _measure.median_ratio(times["slow"], times["base"]) == 2.0
    assert _measure.compare(times, "base") == {
        "slow": {"ratio": 2.0, "quartiles": [1.5, 2.5]}
    }


def test_a_table_shows_a_dash_where_a_number_is_missing() -> None:
    columns = {"name": ("", "{}"), "time": ("ms", "{:.1f}")}
    table = _measure.markdown_table(
        [{"name": "a", "time": 1.25}, {"name": "b"}], columns
    )
    assert table.splitlines() == [
        "|  | ms |",
        "| :-- | --: |",
        "| a | 1.2 |",
        "| b | – |",
    ]


def test_the_overhead_of_a_classifier_of_keras_is_that_of_its_size() -> None:
    bare = overhead.classifier("MobileNetV2", side=32, classes=7)
    assert bare.input_shape == (None, 32, 32, 3)
    assert bare.output_shape == (None, 7)


@pytest.mark.parametrize(
    ("module", "arguments", "rows"),
    [
        (overhead, ["--batch_size=2"], ["bare", "trapped"]),
        pytest.param(
            luring,
            ["--batch_size=2", "--steps=2", "--width=0.05"],
            [luring.FIT, luring.COMPILED, luring.EAGER, luring.ANSWERS],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["overhead", "luring"],
)
def test_results_are_printed_and_written(
    module: ModuleType,
    arguments: list[str],
    rows: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "new" / "v1.0"
    run(module, *arguments, "--repeats=2", f"--output={output}")
    printed = capsys.readouterr().out.rstrip()
    written = (output.parent / "v1.0.md").read_text("utf-8")
    assert written.rstrip() == printed
    for name in rows:
        assert f"| {name} | " in printed

    data = json.loads((output.parent / "v1.0.json").read_text("utf-8"))
    assert [row["name"] for row in data["rows"]] == rows
    facts = data["provenance"]
    assert facts["command"].startswith(f"python -m {module.__name__} ")
    assert set(facts["command"].split()[3:]) == {*arguments, "--repeats=2"}
    assert {"date", "cpus", "tensorflow", "keras", "numpy", "python"} <= set(facts)
    assert str(tmp_path) not in written


@pytest.mark.slow
def test_an_export_and_its_signatures_are_measured(tmp_path: Path) -> None:
    run(serving, "--repeats=1", "--batch_size=2", f"--output={tmp_path / 'serving'}")
    rows = json.loads((tmp_path / "serving.json").read_text("utf-8"))["rows"]
    assert [row["name"] for row in rows] == [
        "export with self-test",
        "serving_default",
        "analyze",
        "integrated",
    ]
    assert rows[0]["seconds"] > 0
    assert all(row["image_ms"] > 0 for row in rows[1:])
    assert all(row["ratio"] > 0 for row in rows[2:])


@pytest.mark.parametrize("module", [qim, overhead, luring, serving])
def test_words_that_are_no_flags_are_refused(module: ModuleType) -> None:
    with pytest.raises(app.UsageError, match="Received: fast"):
        run(module, "fast")


@pytest.mark.slow
def test_a_calibration_is_timed_and_its_decoder_is_small() -> None:
    (row,) = calibration.measure("MobileNetV2", side=32, classes=12, images=80)
    assert row["calibrate_s"] > 0
    assert row["predict_s"] > 0
    assert 0 < row["decoder_mb"] < 0.2


def test_keys_of_copies_that_no_image_was_made_on_are_ranked_among_the_others(
    digits_calibration: Calibration, digits_test: Dataset
) -> None:
    settings, data = digits_calibration.settings, digits_test.take(30)
    [row] = tracing.measure(settings, data, keys=400, repeats=1)
    assert (row["keys"], row["images"]) == (400, 30)
    # Ranks among 200 keys tell no share below 1 / 201.
    assert row["at_0.001"] == 0
    assert row["at_0.1"] == pytest.approx(0.1, abs=0.06)
