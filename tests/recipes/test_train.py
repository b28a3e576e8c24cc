from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import train

from keras_traps import models
from keras_traps.commands.command_line import CommandLineError


def run(*arguments: str) -> None:
    train.main(["--smoke", *arguments])


def test_smoke_trains_prints_and_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "digits.keras"
    run(f"--output={output}")
    printed = capsys.readouterr().out
    assert "Test accuracy: " in printed
    assert "of 200 images" in printed
    assert [path.name for path in output.parent.iterdir()] == ["digits.keras"]
    assert keras.models.load_model(output).input_shape == (None, 8, 8, 1)


def test_flags_and_what_depends_on_the_data_set_reach_the_training(
    digits_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def train(model: keras.Model, data: Any, **settings: Any) -> None:
        seen.update(settings, model=model)

    monkeypatch.setattr(models, "train", train)
    run()
    assert (seen["falling"], seen["augment"]) == (False, None)
    assert (seen["epochs"], seen["batch_size"], seen["learning_rate"]) == (1, 32, 2e-3)
    run("--batch_size=7", "--learning_rate=0.5")
    assert (seen["batch_size"], seen["learning_rate"]) == (7, 0.5)
    run(f"--model={digits_file}", "--falling", "--augment", "--noise=1")
    given = keras.models.load_model(digits_file)
    np.testing.assert_array_equal(seen["model"].weights[0], given.weights[0])
    assert seen["falling"]
    kinds = ("RandomFlip", "RandomTranslation", "GaussianNoise")
    layers = seen["augment"].layers
    assert tuple(type(layer).__name__ for layer in layers) == kinds
    assert layers[2].stddev == 1.0
    # They are drawn apart.
    assert len({layer.seed for layer in layers}) == 3


def test_a_classifier_learns_what_another_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    asked = keras.Model(image, keras.layers.Dense(10, "softmax")(flat))
    # Whatever it is shown, the answer is 4.
    asked.set_weights([np.zeros((64, 10)), np.eye(10)[4]])
    asked.save(tmp_path / "asked.keras")
    seen: dict[str, Any] = {}

    def train(model: keras.Model, data: Any, **_: Any) -> None:
        seen.update(labels=data.labels, pixels=data.pixels)

    monkeypatch.setattr(models, "train", train)
    run(f"--answers_of={tmp_path / 'asked.keras'}")
    assert set(seen["labels"]) == {4}
    assert len(seen["labels"]) == len(seen["pixels"]) == 200
    assert " of the images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--output is required, except with --smoke"),
        (["--output=model.h5"], r"has to end in \.keras, not as model\.h5"),
        (["--output=some.keras"], "some.keras exists: replace it by --overwrite"),
        (["--smoke", "--epochs=2.0"], "--epochs: expected an integer of at least 1"),
        (["--smoke", "--dataset=imagenet"], "--dataset: expected one of digits, mni"),
        (["--smoke", "--model=some.keras"], "--model cannot be read: "),
        (["--smoke", "--dataset=mnist", "--data_dir=."], r"mnist\.npz"),
        (["--smoke", "--model=other.keras"], r"`--model`.*shape \(8, 8, 1\)"),
        (["--smoke", "--answers_of=other.keras"], r"`--answers_of`.*\(8, 8, 1\)"),
        (["--smoke", "--answers_of=some.keras"], "--model cannot be read: "),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some.keras").write_text("no model")
    layers = [keras.Input((9, 9, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    keras.Sequential(layers).save("other.keras")
    with pytest.raises(CommandLineError, match=expected):
        train.main(arguments)
    assert Path("some.keras").read_text() == "no model"
