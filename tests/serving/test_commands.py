"""The lines that an export prints, run in a shell as they are printed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.serving import Exported
from tests.serving.conftest import load
from tests.serving.server_process import ServerProcess


def run(line: str, directory: Path) -> str:
    """Runs a line where `python` and its scripts are the tests' own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        line,
        shell=True,
        cwd=directory,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def server(exported: Exported) -> Iterator[ServerProcess]:
    pytest.importorskip("tensorflow_serving.apis")
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    with ServerProcess(exported.path.parent, "digits") as process:
        yield process


def test_saved_model_cli_shows_every_signature(
    exported: Exported, tmp_path: Path
) -> None:
    shown = run(exported.commands[0], tmp_path)
    for name in exported.signatures:
        assert f"signature_def['{name}']" in shown


def test_docker_is_given_the_folder_of_versions_and_the_name(
    exported: Exported,
) -> None:
    line = exported.commands[1]
    assert line.startswith("docker run --rm -p 8500:8500 -p 8501:8501 ")
    assert f" -v {exported.path.parent}:/models/digits:ro " in line
    assert line.endswith(" -e MODEL_NAME=digits tensorflow/serving")


def test_curl_gets_the_answer_of_every_signature(
    exported: Exported, server: ServerProcess, tmp_path: Path
) -> None:
    grey = np.full((8, 8, 1), 77, np.uint8)
    (tmp_path / "image.png").write_bytes(tf.io.encode_png(grey).numpy())
    pixels = {"image": np.full((1, 8, 8, 1), 0.5, np.float32)}
    asked: dict[str, dict[str, Any]] = {
        "serving_default": pixels,
        "analyze": pixels,
        "integrated": pixels,
        "serving_uint8": {"image": np.full((1, 8, 8, 1), 128, np.uint8)},
        "image_bytes": {
            "image_bytes": np.array([(tmp_path / "image.png").read_bytes()], object)
        },
    }
    signatures = load(exported.path)
    lines = exported.commands[2:]
    assert len(lines) == len(exported.signatures) == len(asked)
    for name, line in zip(exported.signatures, lines, strict=True):
        assert "http://localhost:8501/" in line
        here = line.replace("http://localhost:8501", server.rest_address)
        (answer,) = json.loads(run(here, tmp_path))["predictions"]
        expected = signatures[name](**asked[name])
        assert set(answer) == set(expected)
        assert answer["label"] == expected["label"][0].decode()
        np.testing.assert_allclose(
            answer["probabilities"], expected["probabilities"][0], rtol=1e-4, atol=1e-5
        )
