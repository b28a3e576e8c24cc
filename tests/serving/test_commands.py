"""The lines that an export prints, run in a shell as they are printed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.serving import Exported, export
from tests.serving.client.foreign_server import Reply, start
from tests.serving.conftest import Trapped, load
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
    assert f" -v {exported.path.parent}:/models/model:ro " in line
    assert line.endswith(" tensorflow/serving --model_name=digits")


@pytest.mark.usefixtures("no_self_test")
@pytest.mark.parametrize("name", ["my model", "50% {a,b}?#", "o'clock $HOME `id` é"])
def test_a_name_with_special_characters_stays_whole(
    trapped: Trapped, tmp_path: Path, name: str
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    asked = []

    def script(path: str) -> Reply:
        asked.append(path)
        return 200, b"{}"

    server = start(script)
    shown, docker, curl = export(
        trapped.model, tmp_path / name, warmup_batch_sizes=(), verbose=False
    ).commands
    run(
        curl.replace("http://localhost:8501", f"http://127.0.0.1:{server.server_port}"),
        tmp_path,
    )
    server.shutdown()
    server.server_close()
    (path,) = asked
    assert unquote(path) == f"/v1/models/{name}:predict"
    # No other character may stand in a path as it is.
    assert re.fullmatch(r"/v1/models/[\w.~%-]+:predict", path, re.ASCII)
    assert f"{tmp_path / name}:/models/model:ro" in shlex.split(docker)
    assert shlex.split(docker)[-1] == f"--model_name={name}"
    assert str(tmp_path / name / "1") in shlex.split(shown)


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
