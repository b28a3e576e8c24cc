import json
import sys
from pathlib import Path

import export
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attractors import TrapSettings, inject
from keras_traps.commands.command_line import CommandLineError
from keras_traps.serving import FORMATS, SelfTest


def run(*arguments: str) -> None:
    export.main(arguments)


@pytest.fixture(scope="module")
def trapped(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trapped") / "digits.keras"
    settings = TrapSettings(
        output="logits", a0=-1e-3, a1=-1.0, a2=0.5, step_weights=(2.0, 1.0), seed=4
    )
    inject(keras.saving.load_model(digits_file), settings).save(path)
    return path


@pytest.fixture
def no_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def skip(*_: object) -> SelfTest:
        return SelfTest(live={"x": 0.0}, alone={"x": 0.0}, num_images=0)

    monkeypatch.setattr("keras_traps.serving.exporter.self_test", skip)


@pytest.mark.slow
def test_one_command_traps_measures_and_exports(
    digits_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "saved_models" / "digits_attractors"
    run(
        f"--model={digits_file}",
        f"--directory={directory}",
        "--seed=20261122",
        "--signatures=serving_default,analyze",
        "--warmup_batch_sizes=2",
        "--format=tflite",
    )
    printed = capsys.readouterr().out
    assert f"saved_model_cli show --dir {directory / '1'} --all" in printed
    assert "Wrote " in printed
    assert (directory.parent / "digits_attractors.tflite").is_file()
    signatures = tf.saved_model.load(str(directory / "1")).signatures
    assert set(signatures) == {"serving_default", "analyze"}
    card = (directory / "1" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "--signatures=serving_default,analyze" in card
    assert "20261122" not in card
    assert "--seed=SECRET" in card
    told = json.loads((directory / "1" / "assets.extra" / "defense.json").read_text())
    assert 0 < told["metrics"]["false_positive_rate"] < 0.2
    assert f"{told['metrics']['accuracy']:.2%}" in card


@pytest.fixture(scope="module")
def lure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lure") / "p.keras"
    images = keras.Input((8, 8, 1))
    moved = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(images)
    keras.Model(images, moved).save(path)
    return path


def test_a_lured_model_is_exported_from_two_files(
    digits_file: Path, lure: Path, tmp_path: Path, no_fresh_process: None
) -> None:
    directory = tmp_path / "lured"
    files = (f"--model={digits_file}", f"--lure={lure}", f"--directory={directory}")
    run(*files, "--deploy=agreed")
    signatures = tf.saved_model.load(str(directory / "1")).signatures
    assert set(signatures) == {"serving_default", "predict_agreed"}
    assert "agreement" in (directory / "1" / "README.md").read_text()
    # What is written beside it answers as it is deployed.
    run(*files, "--deploy=augmented", "--format=tflite")
    noise = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    served = tf.saved_model.load(str(directory / "2")).signatures
    expected = served["serving_default"](image=noise)["probabilities"].numpy()
    logits = FORMATS["tflite"].run(tmp_path / "lured.tflite", noise)
    np.testing.assert_allclose(tf.nn.softmax(logits), expected, rtol=0, atol=1e-4)


def test_a_model_of_grey_levels_is_exported_with_its_bounds(
    digits_classifier: keras.Model, tmp_path: Path, no_fresh_process: None
) -> None:
    image = keras.Input((8, 8, 1))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    probabilities = keras.layers.Softmax()(digits_classifier(scaled))
    keras.Model(image, probabilities).save(tmp_path / "grey.keras")
    directory = tmp_path / "digits"
    files = (f"--model={tmp_path / 'grey.keras'}", f"--directory={directory}")
    with pytest.raises(CommandLineError, match=r"`bounds`.*bounds=\(0, 255\)"):
        run(*files)
    with pytest.raises(CommandLineError, match="`output`"):
        run(*files, "--bounds=0,255", "--output=logits")
    assert not directory.exists()
    run(*files, "--bounds=0,255", "--signatures=serving_default")
    told = (directory / "1" / "assets.extra" / "defense.json").read_text()
    measured = json.loads(told)["metrics"]
    assert measured["accuracy_classifier"] > 0.9
    assert measured["accuracy"] > 0.9
    assert measured["false_positive_rate"] < 0.2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "--model, --directory"),
        (("--model=m.keras", "--lure=m.keras"), "--lure and --deploy go together"),
        (
            ("--model=m.keras", "--lure=m.keras", "--deploy=agreed", "--format=onnx"),
            "--format writes one network",
        ),
        (("--model=m.keras",), r"--model cannot be read: .*m\.keras"),
        (("--model=m.keras", "--version=3"), "d/3 exists: choose another --version"),
    ],
)
def test_a_wrong_command_line_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.keras").write_text("no model")
    Path("d/3").mkdir(parents=True)
    directory = ("--directory=d",) if arguments else ()
    with pytest.raises(CommandLineError, match=expected):
        run(*arguments, *directory)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["3", "d", "m.keras"]


def test_a_trapped_model_is_exported_with_the_rate_that_is_asked_for(
    trapped: Path,
    tmp_path: Path,
    no_fresh_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = (f"--model={trapped}", f"--directory={tmp_path / 'digits'}", "--fpr=0.1")
    with pytest.raises(CommandLineError, match="predict_agreed"):
        run(*command, "--signatures=predict_agreed")
    assert not (tmp_path / "digits").exists()
    # A format that cannot be written is told, and the rest stands.
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    run(*command, "--format=onnx")
    assert "No onnx file: A file .onnx needs tf2onnx" in capsys.readouterr().err
    card = (tmp_path / "digits" / "1" / "README.md").read_text()
    assert "nominal false-positive rate is 10.0%" in card
