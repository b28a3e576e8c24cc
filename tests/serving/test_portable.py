"""What a trapped model answers in each format, and what a format needs."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps import integrate
from keras_traps.models.inference import predict
from keras_traps.serving import FORMATS, Format, PortableError, export_portable
from keras_traps.serving.portable import FileFormat
from tests.serving.conftest import Trapped


def skip_without(name: Format) -> None:
    for package in FORMATS[name].packages:
        # Found and not imported: OpenVINO reports that it was.
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'no {package}: install the extra "{name}"')


@pytest.mark.parametrize(
    "name",
    [
        "tflite",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("onnx", "openvino")),
    ],
)
def test_a_file_answers_as_the_live_model(
    name: Format, trapped: Trapped, tmp_path: Path
) -> None:
    skip_without(name)
    form = FORMATS[name]
    # It holds the trapped model.
    model = integrate(trapped.model, trapped.analyzer)
    file = tmp_path / "new" / f"m{form.suffix}"
    difference = export_portable(model, file, examples=trapped.images[:3])
    assert difference <= 1e-4
    images = trapped.images[3:8]
    answers = form.run(file, images)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, predict(model, images), rtol=0, atol=1e-4)
    expected = {file.name} | ({"m.bin"} if form.suffix == ".xml" else set())
    assert {path.name for path in file.parent.iterdir()} == expected


@pytest.mark.parametrize("given", ["float32", "float16"])
def test_a_file_takes_float32_pixels_in_the_bounds_of_the_model(
    tmp_path: Path, given: str
) -> None:
    keras.utils.set_random_seed(0)
    pixels = keras.Input((6, 4), dtype=given)
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    answer = keras.layers.Dense(1, "sigmoid")(keras.layers.Flatten()(scaled))
    model = keras.Model(pixels, answer)
    examples = np.full((1, 6, 4), 255, np.uint8)
    file = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match=r"with bounds=\(0, 255\)"):
        export_portable(model, file)
    export_portable(model, file, bounds=(0, 255), examples=examples)
    images = examples.astype(np.float32)
    found = FORMATS["tflite"].run(file, images)
    np.testing.assert_allclose(found, predict(model, images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_missing_package_is_named(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Format
) -> None:
    form = FORMATS[name]
    monkeypatch.setitem(sys.modules, form.packages[0], None)
    monkeypatch.setenv("CI", "before")
    with pytest.raises(ImportError, match=f'{form.packages[0]}.*the extra "{name}"'):
        export_portable(trapped.model, tmp_path / f"m{form.suffix}")
    # It is set meanwhile, so that OpenVINO reports nothing.
    assert os.environ["CI"] == "before"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_openvino_reports_its_use_to_nobody(tmp_path: Path) -> None:
    skip_without("openvino")
    program = (
        "import keras, sys\n"
        "from keras_traps.serving import export_portable\n"
        "images = keras.Input((2, 2, 1))\n"
        "model = keras.Model(images, keras.layers.Flatten()(images))\n"
        "print(export_portable(model, 'm.xml'))\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: os.environ[name] for name in os.environ if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0.0\n"
    # It would leave an identifier there.
    assert not list(home.rglob("*openvino*"))


@pytest.mark.parametrize("off", [2e-4, np.nan])
def test_a_file_that_answers_otherwise_is_refused(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    spoilt = dataclasses.replace(
        two_files(trapped),
        run=lambda path, images: predict(trapped.model, images) + off,
    )
    monkeypatch.setitem(FORMATS, "openvino", spoilt)
    (tmp_path / "m.xml").write_text("old")
    with pytest.raises(PortableError, match="the largest difference is"):
        export_portable(trapped.model, tmp_path / "m.xml")
    assert (tmp_path / "m.xml").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_that_cannot_be_converted_and_another_ending_are_refused(
    trapped: Trapped, tmp_path: Path
) -> None:
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.ops.erfinv(flat))
    with pytest.raises(PortableError, match=r"cannot be converted to \.tflite.*Erfinv"):
        export_portable(model, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=r"one of \.onnx, \.xml, \.tflite"):
        export_portable(trapped.model, tmp_path / "m.pb")
    assert not list(tmp_path.iterdir())


def two_files(trapped: Trapped) -> FileFormat:
    """A format as OpenVINO's, without its package."""

    def convert(model: keras.Model, path: Path) -> None:
        path.write_text("new graph")
        path.with_suffix(".bin").write_text("new weights")

    return FileFormat(
        ".xml", (), convert, lambda path, images: predict(trapped.model, images)
    )


def test_files_replace_those_of_before_and_an_old_graph_never_has_new_weights(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "openvino", two_files(trapped))
    for name in ("m.xml", "m.bin", "n.bin"):
        (tmp_path / name).write_text("old")
    assert export_portable(trapped.model, tmp_path / "m.xml") == 0
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"m.xml": "new graph", "m.bin": "new weights", "n.bin": "old"}
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        export_portable(trapped.model, tmp_path / "m.xml")
    assert {path.name for path in tmp_path.iterdir()} == {"m.bin", "n.bin"}
