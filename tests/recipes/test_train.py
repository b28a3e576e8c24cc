from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import train
from command_line import CommandLineError

from keras_traps import models


def run(*arguments: str) -> None:
    train.main(["--smoke", *arguments])


def test_smoke_trains_prints_and_saves_what_can_be_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "new" / "first.keras", tmp_path / "second.keras"
    run(f"--output={first}")
    printed = capsys.readouterr().out
    assert "Test accuracy: " in printed
    assert "of 200 images" in printed
    assert [path.name for path in first.parent.iterdir()] == ["first.keras"]
    run(
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


def test_flags_and_what_depends_on_the_data_set_reach_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(models, "train", lambda *_, **settings: seen.update(settings))
    run()
    assert (seen["falling"], seen["augment"]) == (False, None)
    assert (seen["epochs"], seen["batch_size"], seen["learning_rate"]) == (1, 32, 2e-3)
    run("--batch_size=7", "--learning_rate=0.5", "--falling", "--augment", "--noise=1")
    assert (seen["batch_size"], seen["learning_rate"]) == (7, 0.5)
    assert seen["falling"]
    kinds = ("RandomFlip", "RandomTranslation", "GaussianNoise")
    layers = seen["augment"].layers
    assert tuple(type(layer).__name__ for layer in layers) == kinds
    assert layers[2].stddev == 1.0
    # They are drawn apart.
    assert len({layer.seed for layer in layers}) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--output is required, except with --smoke"),
        (["--output=model.h5"], r"has to end in \.keras, not as model\.h5"),
        (["--output=some.keras"], "some.keras exists: replace it by --overwrite"),
        (["--smoke", "--epochs=2.0"], "--epochs: expected an integer of at least 1"),
        (["--smoke", "--learning_rate=nan"], "--learning_rate: expected a number abo"),
        (["--smoke", "--noise=-0.1"], "--noise: expected a number of at least 0"),
        (["--smoke", "--dataset=imagenet"], "--dataset: expected one of digits, mni"),
        (["--smoke", "--model=some.keras"], "--model cannot be read: "),
        (["--smoke", "--dataset=mnist", "--data_dir=."], r"mnist\.npz"),
        (["--smoke", "--model=other.keras"], r"a model of images \(8, 8, 1\)"),
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
