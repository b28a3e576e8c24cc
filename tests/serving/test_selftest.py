"""The self-test refuses what does not answer as the live model does."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import ForensicAnalyzer, calibrate, serving
from keras_traps.attractors import inject
from keras_traps.models.inference import predict
from keras_traps.ops import Key
from keras_traps.serving import selftest
from keras_traps.serving.signatures import Subject
from tests.serving.conftest import SETTINGS, Trapped

export = functools.partial(serving.export, warmup_batch_sizes=(), verbose=False)

Spoil = Callable[[np.ndarray], np.ndarray]


def standardising() -> keras.Model:
    """A classifier that divides by 0 on an image of one colour."""
    images = keras.Input((4, 4, 1))
    mean = keras.ops.mean(images, axis=(1, 2, 3), keepdims=True)
    spread = keras.ops.std(images, axis=(1, 2, 3), keepdims=True)
    flat = keras.layers.Flatten()((images - mean) / spread)
    return keras.Model(images, keras.layers.Dense(3)(flat))


def test_it_reports_every_signature(exported: serving.Exported) -> None:
    found = exported.self_test
    assert set(found.live) == set(found.alone) == set(exported.signatures)
    assert max(*found.live.values(), *found.alone.values()) <= 1
    assert found.num_images == 12


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, change: Spoil) -> None:
    """Changes what the live model is said to answer."""
    live_answers = selftest.live_answers

    def other(*arguments: Any) -> Any:
        answers = live_answers(*arguments)
        return {**answers, name: change(answers[name])}

    monkeypatch.setattr(selftest, "live_answers", other)


@pytest.mark.usefixtures("quick_self_test")
def test_a_model_that_answers_nan_is_refused_and_the_image_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "not finite for 2 of 8 images, the first of them number 6: 6 is black"
    with pytest.raises(serving.SelfTestError, match=expected):
        export(standardising(), tmp_path / "model", output="logits")
    spoil(monkeypatch, "probabilities", np.nan_to_num)
    with pytest.raises(serving.SelfTestError, match="difference is inf times"):
        export(standardising(), tmp_path / "model", output="logits")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick_self_test")
def test_a_model_that_answers_otherwise_is_refused(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[tuple[str, Spoil]] = [
        ("probabilities", lambda value: value + np.float32(1e-5)),
        ("probabilities", lambda value: value[:, :-1]),
        ("class_id", lambda value: value + 1),
        ("label", lambda value: np.roll(value, 1)),
    ]
    for name, change in changes:
        with monkeypatch.context() as patch:
            spoil(patch, name, change)
            with pytest.raises(serving.SelfTestError, match="as the live model"):
                export(trapped.model, tmp_path / "model", examples=trapped.images[:4])
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_damaged_version_does_not_pass(
    exported: serving.Exported, tmp_path: Path
) -> None:
    shutil.copytree(exported.path, tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(serving.SelfTestError, match="cannot be loaded"):
        selftest.reload(tmp_path / "1", tmp_path)


@pytest.mark.slow
def test_the_reload_fails_where_this_package_would_be_imported(tmp_path: Path) -> None:
    script = Path(selftest.__file__).with_name("_reload.py")
    for name in ("keras_traps", "keras"):
        program = f"import runpy; runpy.run_path({str(script)!r}); import {name}"
        done = subprocess.run(
            [sys.executable, "-P", "-c", program], capture_output=True, text=True
        )
        assert f"import of {name} halted" in done.stderr


def of_two_logits() -> keras.Model:
    """A trapped model of C whose logits are a hundred times the pixels."""
    images = keras.Input((2,))
    head = keras.layers.Dense(2, use_bias=False)
    classifier = keras.Model(images, head(images))
    head.set_weights([100 * np.eye(2)])
    return inject(classifier, SETTINGS)


def test_an_image_on_a_step_or_a_tie_may_fall_to_either_side() -> None:
    # Probabilities of 1/2, 3/4, 3/5, between two steps, and of 1, where no step is.
    logits = [(0, 0), (np.log(3), 0), (np.log(1.5), 0), (0.3, 0), (100, 0), (5, 1)]
    images = np.array(np.divide(logits, 100), np.float32)
    decided = selftest._are_decided(Subject(of_two_logits()), images)
    assert decided.tolist() == [False, False, False, True, True, True]


@pytest.mark.usefixtures("quick_self_test")
def test_a_test_that_could_compare_nothing_is_refused(tmp_path: Path) -> None:
    model = of_two_logits()
    model.get_layer("classifier").set_weights([np.zeros((2, 2))])
    with pytest.raises(serving.SelfTestError, match=r"answer to the 8 images.*hangs"):
        export(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick_self_test")
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_classifier_of_half_precision_is_exported(
    tmp_path: Path, activation: str | None
) -> None:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    images = keras.Input((32, 32, 3))
    with_half = {"dtype": "mixed_float16"}
    features = layers.Conv2D(16, 3, strides=2, activation="relu", **with_half)(images)
    features = layers.Dense(64, **with_half)(layers.Flatten(**with_half)(features))
    answers = layers.Dense(43, activation=activation, **with_half)(features)
    model = keras.Model(images, answers)
    if activation:
        sums = model(np.ones((1, 32, 32, 3))).numpy().astype(float).sum(axis=1)
        assert abs(sums - 1).max() > 1e-4
    done = export(model, tmp_path)
    assert max(*done.self_test.live.values(), *done.self_test.alone.values()) <= 1


def structured(count: int, side: int) -> np.ndarray:
    """Waves of every direction and contrast under noise."""
    rng = np.random.default_rng(side)
    x = np.linspace(0, 2 * np.pi, side, dtype=np.float32)
    images = np.empty((count, side, side, 3), np.float32)
    for image in images:
        down, along = rng.uniform(0.5, 6, 2)
        wave = np.sin(down * x[:, None, None] + along * x[None, :, None])
        noise = rng.normal(0, 0.1, image.shape)
        image[...] = 0.5 + wave * rng.uniform(-0.3, 0.3, 3) + noise
    return np.clip(images, 0, 1)


@pytest.mark.usefixtures("quick_self_test")
@pytest.mark.parametrize(
    "side", [150, *(pytest.param(side, marks=pytest.mark.slow) for side in (299, 512))]
)
def test_large_images_alone_are_as_in_a_batch_to_the_same_tolerance(
    tmp_path: Path, side: int
) -> None:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    images = keras.Input((side, side, 3))
    features = layers.Conv2D(8, 5, strides=4, activation="relu")(images)
    pooled = layers.GlobalAveragePooling2D()(features)
    spread = keras.initializers.RandomNormal(stddev=30)
    classifier = keras.Model(images, layers.Dense(5, kernel_initializer=spread)(pooled))
    clean = structured(40, side)
    labels = predict(classifier, clean).argmax(axis=1)
    calibration = calibrate(
        classifier, clean, labels, output="logits", budget=0.05, key=Key.from_seed(0)
    )
    trapped = inject(classifier, calibration)
    done = export(
        *(trapped, tmp_path),
        analyzer=ForensicAnalyzer(trapped).fit(clean[4:]),
        signatures=("analyze", "integrated", "serving_uint8"),
        examples=clean[:4],
    ).self_test
    assert max(*done.live.values(), *done.alone.values()) <= 1


def test_an_image_that_a_threshold_lies_on_may_fall_to_either_side(
    trapped: Trapped,
) -> None:
    subject = Subject(trapped.model, analyzer=trapped.analyzer)
    decided = selftest._are_decided(subject, trapped.images)
    # The thresholds were set by one of these.
    assert 1 <= (~decided).sum() <= 3
