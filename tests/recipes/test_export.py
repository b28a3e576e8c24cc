import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import app, flags

from keras_traps.attractors import TrapSettings, inject
from keras_traps.models import digits_cnn
from keras_traps.serving.formats import FORMATS
from recipes import export as recipe

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def call(*arguments: str) -> None:
        argv = ["recipes/export.py", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        values = recipe.define_flags(flags.FlagValues())
        recipe.main(values(argv), values)

    return call


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.keras"
    keras.utils.set_random_seed(0)
    digits_cnn().save(path)
    return path


@pytest.fixture(scope="module")
def trapped(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trapped") / "digits.keras"
    settings = TrapSettings(
        output="logits", a0=-1e-3, a1=-1.0, a2=0.5, step_weights=(2.0, 1.0), seed=4
    )
    inject(keras.saving.load_model(classifier), settings).save(path)
    return path


def test_one_command_traps_measures_and_exports(
    run: Callable[..., None],
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "saved_models" / "digits_attractors"
    run(
        f"--model={classifier}",
        f"--directory={directory}",
        "--seed=20261122",
        "--signatures=serving_default,analyze",
        "--warmup_batch_sizes=2",
        "--format=tflite",
    )
    printed = capsys.readouterr().out
    assert f"saved_model_cli show --dir {directory / '1'} --all" in printed
    assert "Wrote " in printed
    assert {path.name for path in directory.parent.iterdir()} == {
        "digits_attractors",
        "digits_attractors.tflite",
    }
    signatures = tf.saved_model.load(str(directory / "1")).signatures
    assert set(signatures) == {"serving_default", "analyze"}
    card = (directory / "1" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "--signatures=serving_default,analyze" in card
    assert "white box" in card
    assert "20261122" not in card
    assert "--seed=SECRET" in card
    told = json.loads((directory / "1" / "assets.extra" / "defense.json").read_text())
    assert 0 < told["metrics"]["false_positive_rate"] < 0.2
    assert f"{told['metrics']['accuracy']:.2%}" in card


def test_a_lured_model_is_exported_from_two_files(
    run: Callable[..., None],
    classifier: Path,
    tmp_path: Path,
    no_fresh_process: None,
) -> None:
    images = keras.Input((8, 8, 1))
    lure = keras.Model(images, keras.layers.Conv2D(1, 1, activation="relu")(images))
    lure.save(tmp_path / "p.keras")
    run(
        f"--model={classifier}",
        f"--lure={tmp_path / 'p.keras'}",
        "--deploy=agreed",
        f"--directory={tmp_path / 'lured'}",
    )
    signatures = tf.saved_model.load(str(tmp_path / "lured" / "1")).signatures
    assert set(signatures) == {"serving_default", "predict_agreed"}
    assert "agreement" in (tmp_path / "lured" / "1" / "README.md").read_text()


@pytest.mark.parametrize("deploy", ["target", "augmented"])
def test_a_file_of_a_lured_model_answers_as_it_is_deployed(
    run: Callable[..., None],
    classifier: Path,
    tmp_path: Path,
    no_fresh_process: None,
    deploy: str,
) -> None:
    images = keras.Input((8, 8, 1))
    moved = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(images)
    keras.Model(images, moved).save(tmp_path / "p.keras")
    run(
        f"--model={classifier}",
        f"--lure={tmp_path / 'p.keras'}",
        f"--deploy={deploy}",
        f"--directory={tmp_path / 'lured'}",
        "--format=tflite",
    )
    noise = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    served = tf.saved_model.load(str(tmp_path / "lured" / "1")).signatures
    expected = served["serving_default"](image=noise)["probabilities"].numpy()
    logits = FORMATS["tflite"].run(tmp_path / "lured.tflite", noise)
    np.testing.assert_allclose(tf.nn.softmax(logits), expected, rtol=0, atol=1e-4)


def test_a_format_that_cannot_be_written_is_told_and_the_rest_stands(
    run: Callable[..., None],
    classifier: Path,
    tmp_path: Path,
    no_fresh_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    run(
        f"--model={classifier}",
        f"--directory={tmp_path / 'digits'}",
        "--format=onnx",
    )
    assert "No onnx file: A file .onnx needs tf2onnx" in capsys.readouterr().err
    assert (tmp_path / "digits" / "1" / "saved_model.pb").exists()
    assert not (tmp_path / "digits.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "--model and --directory are required"),
        (("--model=m.keras", "--directory=d", "x"), "Expected flags only"),
        (("--model=m.keras", "--directory=d"), r"names no \.keras file"),
        (("--model=m.keras", "--directory=d", "--lure=p.keras"), "go together"),
        (("--model=m.keras", "--directory=d", "--deploy=agreed"), "go together"),
        (
            (
                "--model=m.keras",
                "--directory=d",
                "--lure=p.keras",
                "--deploy=agreed",
                "--format=tflite",
            ),
            "--format writes one network",
        ),
        (
            ("--model=m.keras", "--directory=d", "--warmup_batch_sizes=1,x"),
            "takes positive integers",
        ),
    ],
)
def test_a_wrong_command_line_is_told(
    run: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(app.UsageError, match=expected):
        run(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "idle"),
    [
        (("--seed=1",), "--seed"),
        (("--calibration=c.json",), "--calibration"),
        (("--output=logits",), "--output"),
        (("--seed=0", "--output=logits"), "--seed, --output"),
        (("--analyzer=a.json", "--fpr=0.05"), "--fpr"),
        (("--analyzer=a.json", "--num_images=5000"), "--num_images"),
    ],
)
def test_a_flag_without_use_for_a_trapped_model_is_refused(
    run: Callable[..., None],
    trapped: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    idle: str,
) -> None:
    with pytest.raises(app.UsageError, match=f"no use for {idle}. Leave out"):
        run(f"--model={trapped}", f"--directory={tmp_path / 'd'}", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "reason", "idle"),
    [
        (("--calibration=c.json", "--output=logits"), "--calibration", "--output"),
        (("--analyzer=a.json", "--fpr=0.1"), "--analyzer", "--fpr"),
        (
            ("--analyzer=a.json", "--calibration=c.json", "--num_images=9"),
            *("--analyzer", "--num_images"),
        ),
        *(
            (("--lure=p.keras", "--deploy=target", flag), "--lure", flag.split("=")[0])
            for flag in (
                *("--seed=1", "--calibration=c.json", "--analyzer=a.json"),
                *("--fpr=0.1", "--num_images=9"),
            )
        ),
    ],
)
def test_a_flag_without_use_for_a_classifier_is_refused(
    run: Callable[..., None],
    classifier: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    reason: str,
    idle: str,
) -> None:
    with pytest.raises(app.UsageError, match=f"With {reason} .* no use for {idle}. L"):
        run(f"--model={classifier}", f"--directory={tmp_path / 'd'}", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_trapped_model_is_exported_with_the_rate_that_is_asked_for(
    run: Callable[..., None],
    trapped: Path,
    tmp_path: Path,
    no_fresh_process: None,
) -> None:
    run(f"--model={trapped}", f"--directory={tmp_path / 'digits'}", "--fpr=0.1")
    card = (tmp_path / "digits" / "1" / "README.md").read_text()
    assert "nominal false-positive rate is 10.0%" in card


def test_it_starts_as_a_script() -> None:
    done = subprocess.run(
        [sys.executable, "recipes/export.py", "--help"],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env=os.environ,
    )
    assert "--deploy: <augmented|target|agreed>" in done.stdout
    assert "TensorFlow Serving" in done.stdout


@pytest.fixture
def no_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_traps.serving import SelfTest

    def skip(*_: object) -> SelfTest:
        return SelfTest(live={"x": 0.0}, alone={"x": 0.0}, num_images=0)

    monkeypatch.setattr("keras_traps.serving.exporter.self_test", skip)
