from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import train
from command_line import CommandLineError

from keras_traps import models


def run(*arguments: str) -> None:
    train.main(arguments)


def test_smoke_trains_prints_and_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "digits.keras"
    run("--smoke", f"--output={output}")
    printed = capsys.readouterr().out
    assert "Test accuracy: " in printed
    assert "of 200 images" in printed
    assert [path.name for path in output.parent.iterdir()] == ["digits.keras"]
    model = keras.models.load_model(output)
    assert model(np.zeros((1, 8, 8, 1), np.float32)).shape == (1, 10)


def test_smoke_needs_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("--smoke")
    assert not list(tmp_path.iterdir())


def test_an_archive_in_data_dir_is_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = np.zeros((12, 28, 28), np.uint8), np.arange(12) % 10
    np.savez(
        tmp_path / "mnist.npz",
        x_train=images,
        y_train=labels,
        x_test=images[:7],
        y_test=labels[:7],
    )
    run("--smoke", "--dataset=mnist", f"--data_dir={tmp_path}")
    assert "of 7 images" in capsys.readouterr().out


def test_an_absent_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandLineError, match=r"cifar10\.npz"):
        run("--smoke", "--dataset=cifar10", f"--data_dir={tmp_path}")


def spied(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """What `train` is given, and nothing is trained."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(models, "train", lambda *_, **settings: seen.update(settings))
    run("--smoke", *arguments)
    return seen


def test_training_is_plain_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = spied(monkeypatch)
    assert (seen["falling"], seen["augment"]) == (False, None)
    assert (seen["epochs"], seen["batch_size"], seen["learning_rate"]) == (1, 32, 2e-3)
    seen = spied(monkeypatch, "--batch_size=7", "--learning_rate=0.5")
    assert (seen["batch_size"], seen["learning_rate"]) == (7, 0.5)


def test_flips_shifts_and_noise_are_drawn_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = spied(monkeypatch, "--falling", "--augment", "--noise=0.2")
    assert seen["falling"]
    flip, shift, noise = seen["augment"].layers
    assert isinstance(flip, keras.layers.RandomFlip)
    assert isinstance(shift, keras.layers.RandomTranslation)
    assert isinstance(noise, keras.layers.GaussianNoise)
    assert noise.stddev == 0.2
    assert len({layer.seed for layer in (flip, shift, noise)}) == 3


def test_a_trained_model_is_trained_on_with_noise(tmp_path: Path) -> None:
    first, second = tmp_path / "first.keras", tmp_path / "second.keras"
    run("--smoke", f"--output={first}")
    run(
        "--smoke",
        f"--model={first}",
        "--noise=0.2",
        "--augment",
        "--falling",
        "--learning_rate=1e-9",
        f"--output={second}",
    )
    before, after = (keras.models.load_model(path) for path in (first, second))
    # No step to speak of was made, and nothing of what augments was saved.
    assert [layer.name for layer in after.layers] == [
        layer.name for layer in before.layers
    ]
    for old, new in zip(before.trainable_weights, after.trainable_weights, strict=True):
        np.testing.assert_allclose(old, new, atol=1e-5)


def test_a_model_of_other_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.keras"
    keras.Sequential(
        [keras.Input((9, 9, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    ).save(path)
    with pytest.raises(CommandLineError, match=r"a model of images \(8, 8, 1\)"):
        run("--smoke", f"--model={path}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "--output is required, except with --smoke"),
        (("--output=model.h5",), r"has to end in \.keras, not as model\.h5"),
        (("--smoke", "digits"), "unrecognized arguments: digits"),
        (("--smoke", "--epochs=0"), "--epochs: expected an integer of at least 1"),
        (("--smoke", "--epochs=2.0"), "--epochs: expected an integer of at least 1"),
        (("--smoke", "--learning_rate=nan"), "--learning_rate: expected a number abo"),
        (("--smoke", "--noise=-0.1"), "--noise: expected a number of at least 0"),
        (("--smoke", "--dataset=imagenet"), "--dataset: expected one of digits, mni"),
        (("--smoke", "--model=none.keras"), "--model: there is no file none"),
        (("--smoke", "--model=some.keras"), "--model cannot be read: "),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some.keras").write_text("no model")
    with pytest.raises(CommandLineError, match=expected):
        run(*arguments)


def test_an_existing_model_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    output = tmp_path / "model.keras"
    output.write_text("precious")
    with pytest.raises(CommandLineError, match="replace it by --overwrite"):
        run("--smoke", f"--output={output}")
    assert output.read_text() == "precious"
    run("--smoke", f"--output={output}", "--overwrite")
    keras.models.load_model(output)


def test_a_failed_save_leaves_the_old_model_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model.keras"
    output.write_text("precious")

    def fail(model: keras.Model, path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        run("--smoke", f"--output={output}", "--overwrite")
    assert output.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [output]
