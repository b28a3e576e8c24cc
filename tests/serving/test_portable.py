import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps.models.inference import predict
from keras_traps.serving.formats import FORMATS, FileFormat
from keras_traps.serving.portable import PortableError, export_portable
from tests.serving.conftest import Trapped


@pytest.mark.parametrize("off", [2e-4, np.nan])
def test_a_file_that_answers_otherwise_is_refused(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    tflite = FORMATS["tflite"]
    spoilt = dataclasses.replace(
        tflite, run=lambda path, images: tflite.run(path, images) + off
    )
    monkeypatch.setitem(FORMATS, "tflite", spoilt)
    (tmp_path / "m.tflite").write_text("old")
    with pytest.raises(PortableError, match="the largest difference is"):
        export_portable(trapped.model, tmp_path / "m.tflite")
    assert (tmp_path / "m.tflite").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.ops.erfinv(flat))
    with pytest.raises(PortableError, match=r"cannot be converted to \.tflite"):
        export_portable(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused(trapped: Trapped, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of \.onnx, \.xml, \.tflite"):
        export_portable(trapped.model, tmp_path / "m.pb")


def test_files_of_a_format_replace_those_of_before_but_no_others(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(model: keras.Model, path: Path) -> None:
        path.write_text("new graph")
        path.with_suffix(".bin").write_text("new weights")

    form = FileFormat(
        ".xml", (), convert, lambda path, images: predict(trapped.model, images)
    )
    monkeypatch.setitem(FORMATS, "openvino", form)
    for name in ("m.xml", "m.bin", "n.bin"):
        (tmp_path / name).write_text("old")
    assert export_portable(trapped.model, tmp_path / "m.xml") == 0
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"m.xml": "new graph", "m.bin": "new weights", "n.bin": "old"}


def test_an_old_graph_never_stands_beside_new_weights(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(model: keras.Model, path: Path) -> None:
        path.write_text("new graph")
        path.with_suffix(".bin").write_text("new weights")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    form = FileFormat(
        ".xml", (), convert, lambda path, images: predict(trapped.model, images)
    )
    monkeypatch.setitem(FORMATS, "openvino", form)
    (tmp_path / "m.xml").write_text("old graph")
    (tmp_path / "m.bin").write_text("old weights")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        export_portable(trapped.model, tmp_path / "m.xml")
    assert {path.name for path in tmp_path.iterdir()} == {"m.bin"}
