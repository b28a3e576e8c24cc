import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps.serving import portable
from keras_traps.serving.portable import PortableError, export_portable
from tests.serving.conftest import Trapped


def test_a_tflite_file_answers_as_the_live_model(
    trapped: Trapped, tmp_path: Path
) -> None:
    difference = export_portable(
        trapped.model, tmp_path / "new" / "m.tflite", examples=trapped.images[:3]
    )
    assert difference <= 1e-4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.tflite"]


def test_an_onnx_file_answers_as_the_live_model(
    trapped: Trapped, tmp_path: Path
) -> None:
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(package, reason='not installed: the extra "onnx"')
    assert export_portable(trapped.model, tmp_path / "m.onnx") <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_missing_package_is_named(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="needs the packages tf2onnx, onnx"):
        export_portable(trapped.model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("off", [2e-4, np.nan])
def test_a_file_that_answers_otherwise_is_refused(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    run = portable._run_tflite
    monkeypatch.setattr(
        portable, "_run_tflite", lambda path, images: run(path, images) + off
    )
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
    with pytest.raises(ValueError, match=r"ends in \.onnx or \.tflite"):
        export_portable(trapped.model, tmp_path / "m.pb")
