"""What a trapped model answers in each format, and what a format needs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest

from keras_traps import integrate
from keras_traps.models.inference import predict
from keras_traps.serving.formats import FORMATS, FileFormat, Format
from keras_traps.serving.portable import export_portable
from tests.serving.conftest import Trapped


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> FileFormat:
    """Every format whose packages are there."""
    _skip_without(request.param)
    return FORMATS[request.param]


def _skip_without(name: Format) -> None:
    for package in FORMATS[name].packages:
        # Found and not imported: OpenVINO reports that it was.
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'no {package}: install the extra "{name}"')


def test_every_format_is_there_and_has_an_ending_of_its_own() -> None:
    assert set(FORMATS) == set(get_args(Format))
    assert len({form.suffix for form in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize("part", ["trapped", "integrated", "by depth"])
def test_a_file_answers_as_the_live_model(
    form: FileFormat, part: str, trapped: Trapped, tmp_path: Path
) -> None:
    model = trapped.model
    if part == "integrated":
        model = integrate(model, trapped.analyzer)
    if part == "by depth":
        model = integrate(model, trapped.analyzer, recovery="depth")
    file = tmp_path / "new" / f"m{form.suffix}"
    difference = export_portable(model, file, examples=trapped.images[:3])
    assert difference <= 1e-4
    images = trapped.images[3:8]
    answers = form.run(file, images)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, predict(model, images), rtol=0, atol=1e-4)
    expected = {file.name} | ({"m.bin"} if form.suffix == ".xml" else set())
    assert {path.name for path in file.parent.iterdir()} == expected


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_missing_package_is_named(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Format
) -> None:
    form = FORMATS[name]
    monkeypatch.setitem(sys.modules, form.packages[0], None)
    with pytest.raises(ImportError, match=f'{form.packages[0]}.*the extra "{name}"'):
        export_portable(trapped.model, tmp_path / f"m{form.suffix}")
    assert not list(tmp_path.iterdir())


def test_openvino_reports_its_use_to_nobody(tmp_path: Path) -> None:
    _skip_without("openvino")
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


def test_a_model_that_a_format_lacks_an_operation_for_is_no_file(
    tmp_path: Path,
) -> None:
    images = keras.Input((4, 4, 1))
    model = keras.Model(images, keras.ops.erfinv(keras.layers.Flatten()(images)))
    with pytest.raises(Exception, match="Erfinv"):
        FORMATS["tflite"].convert(model, tmp_path / "m.tflite")
