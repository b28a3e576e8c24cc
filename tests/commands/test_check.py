import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import TrapSettings, inject
from keras_traps.commands import check
from keras_traps.commands.command_line import CommandLineError
from keras_traps.commands.main import dispatch
from tests.archive_arrays import write

Lines = dict[str, str]


def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == "It can be trapped."
    return {line[:10].strip(): line[10:] for line in shown[:-1]}


def test_a_model_and_its_images_are_told_in_a_line_each(
    own_file: Path, digits_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dispatch(["check", str(own_file), digits_folder])
    shown = lines(capsys)
    assert shown["Takes"] == "images of 8x8x1, float32"
    assert shown["Pixels"].startswith("from 0 to 255: its own Rescaling")
    assert shown["Returns"] == "logits of 10 classes, 10 numbers"
    assert shown["Classes"].startswith("digit0, digit1, ")
    assert float(shown["Accuracy"].partition("%")[0]) > 90
    assert "1000 training images, of 0.10% allowed" in shown["Traps"]
    assert shown["Memory"].startswith("0.00256 MB")
    assert "64 pixels hold a weak watermark" in shown["Note"]


def test_without_images_what_is_assumed_is_said(
    digits_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dispatch(["check", str(digits_file)])
    shown = lines(capsys)
    assert shown["Pixels"].startswith("from 0 to 1: assumed")
    assert not {"Accuracy", "Classes", "Traps"} & {*shown}


def test_images_tell_the_range_where_the_model_does_not(
    digits_file: Path, digits_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dispatch(["check", str(digits_file), digits_folder])
    assert "where it is right most often (" in lines(capsys)["Pixels"]


def test_what_is_slow_is_told_with_numbers(
    digits_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(check, "_SLOWER", 0.0)
    monkeypatch.setattr(check, "_SLOW_MS", -1e9)
    dispatch(["check", str(digits_file)])
    assert "times as long at batch 1, as 0.00256 MB are read" in lines(capsys)["Slow"]
    monkeypatch.setattr(check, "_TOO_LARGE", 1)
    dispatch(["check", str(digits_file)])
    assert "it was not timed" in lines(capsys)["Slow"]


def test_one_number_for_two_classes_without_an_axis_of_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {"class_names": np.array(["dark", "bright"])}
    for split, count in (("train", 300), ("test", 60)):
        content[f"y_{split}"] = rng.integers(0, 2, count)
        levels = rng.integers(0, 100, (count, 10, 10))
        content[f"x_{split}"] = levels + 150 * content[f"y_{split}"][:, None, None]
        content[f"x_{split}"] = content[f"x_{split}"].astype(np.uint8)
    np.savez(tmp_path / "lights.npz", **content)
    image = keras.Input((10, 10))
    dense = keras.layers.Dense(1, "sigmoid")
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    dense.set_weights([np.full((100, 1), 0.2), np.full(1, -10.0)])
    model.save(tmp_path / "model.keras")
    files = [str(tmp_path / name) for name in ("model.keras", "lights.npz")]
    dispatch(["check", *files, "--bounds=0,1"])
    shown = lines(capsys)
    assert shown["Returns"] == "probabilities of 2 classes, one number"
    assert shown["Classes"] == "dark, bright"
    assert shown["Accuracy"] == "100.0% of 60 test images"
    assert shown["Few"] == "with 300 images pass --budget=0.003334"


def classifier(*layers: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers])


def trapped() -> keras.Model:
    settings = TrapSettings(
        output="logits", a0=-1.0, a1=0.0, a2=1.0, step_weights=(1.0, 1.0)
    )
    return inject(classifier(keras.layers.Dense(10)), settings)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: classifier(keras.layers.Dense(10)), "right more often than chance"),
        (lambda: classifier(keras.layers.Dense(5, "sigmoid")), "a multi-label"),
        (lambda: classifier(keras.layers.Reshape((4, 16))), r"\(batch, num_classes\)"),
        (trapped, "trapped already"),
    ],
)
def test_what_cannot_be_trapped_ends_with_1_and_says_why(
    make: Callable[[], keras.Model],
    told: str,
    digits_folder: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make().save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match=r"^1$"):
        dispatch(["check", str(tmp_path / "model.keras"), digits_folder])
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(f"It cannot be trapped: .*{told}", last)


def test_bounds_that_do_not_fit_and_a_damaged_file_end_with_1(
    own_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^1$"):
        dispatch(["check", str(own_file), "--bounds=0,1"])
    assert "with bounds=(0, 255)" in capsys.readouterr().out
    (tmp_path / "damaged.keras").write_bytes(b"no model")
    with pytest.raises(SystemExit, match=r"^1$"):
        dispatch(["check", str(tmp_path / "damaged.keras")])
    assert "MODEL cannot be read" in capsys.readouterr().out


def test_images_that_are_not_there_or_another_models_are_a_wrong_command_line(
    digits_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(CommandLineError, match="no file nowhere"):
        dispatch(["check", "nowhere.keras"])
    write(tmp_path / "mnist.npz")
    with pytest.raises(CommandLineError, match="no folder"):
        dispatch(["check", str(digits_file), "folder:nowhere"])
    with pytest.raises(CommandLineError, match=r"`MODEL`.*\(28, 28, 1\)"):
        dispatch(["check", str(digits_file), "mnist", f"--data_dir={tmp_path}"])


def test_what_will_not_work_is_told_with_its_cure() -> None:
    image = keras.Input((20, 20, 5), dtype="float16")
    answer = keras.layers.Dense(2)(keras.layers.Flatten()(keras.ops.round(image)))
    found = [*check._notes(keras.Model(image, answer), "logits")]
    for note, told in zip(
        found,
        ("takes float32", "without image_bytes", "gradient is None from operation"),
        strict=True,
    ):
        assert told in note
    image = keras.Input((20, 20))
    sums = keras.layers.Dense(2)(keras.layers.Flatten()(image))
    hidden = keras.Model(image, keras.ops.exp(sums) / keras.ops.exp(sums))
    (note,) = check._notes(hidden, "probabilities")
    assert "end the model in a Dense layer" in note
