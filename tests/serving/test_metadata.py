"""What is told beside a model: metadata, card, and lines that are run as printed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import datasets, serving
from keras_traps.serving.metadata import command_lines
from keras_traps.serving.signatures import Subject
from tests.serving.conftest import Serve, Trapped, load
from tests.serving.http_server import Reply


def test_metadata_tells_no_secret(exported: serving.Exported, trapped: Trapped) -> None:
    text = (exported.path / "assets.extra" / "defense.json").read_text()
    content = json.loads(text)
    assert content["false_positive_rate"] == 0.05
    assert content["metrics"] == {"accuracy": 0.97}
    assert content["data_sha256"] == "ab" * 32
    assert content["versions"]["keras"] == keras.__version__
    assert content["signatures"] == list(exported.signatures)
    assert content["defence"] == "attractors"
    assert content["bounds"] == [0, 1]
    assert "seed" not in text
    assert "threshold" not in text
    assert trapped.analyzer.decoder.fingerprint[:8] not in text
    numbers = {float(n) for n in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)}
    found = trapped.analyzer.thresholds
    assert not numbers & {found.upper, found.lower, found.deviation, found.score}


@pytest.mark.parametrize("seed", [("--seed=77",), ("--seed", "77"), ("-seed=77",)])
def test_a_card_tells_what_was_measured_and_never_the_seed(
    seed: tuple[str, ...],
) -> None:
    tested = serving.SelfTest(live={}, alone={}, num_images=1)
    path = Path("saved_models", "digits", "3")
    signatures: tuple[serving.Signature, ...] = ("serving_default", "analyze")
    exported = serving.Exported(path, 3, signatures, tested, (), bounds=(0, 255))
    test = datasets.load("digits", "test")
    argv = ["/home/me/export.py", *seed, "--data_dir=/home/me/data"]
    text = serving.card(
        exported,
        test,
        {"false_positive_rate": 0.0512},
        argv=argv,
        made_by="make saved-models",
        note="Set on 9 images.",
    )
    for part in (
        "# digits, version 3\n\n",
        "`serving_default`, `analyze`. Images are float32, 8 x 8 x 1, pixels in ",
        "in [0, 255].\n",
        "measured on its 500 test images.\n\n",
        "| false positive rate | 5.12% |\n\nSet on 9 images.\n\nSHA-256",
        f"of the test data: `{test.sha256}`\n",
        "    make saved-models\n\nwhich runs\n\n    python recipes/export.py",
        "--seed=SECRET",
    ):
        assert part in text
    assert "77" not in text.replace(test.sha256, "")
    assert "/home" not in text


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


@pytest.mark.slow
def test_saved_model_cli_shows_every_signature(
    exported: serving.Exported, tmp_path: Path
) -> None:
    shown = run(exported.commands[0], tmp_path)
    for name in exported.signatures:
        assert f"signature_def['{name}']" in shown


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("name", ["50% {a,b}?#", "o'clock $HOME `id` é"])
def test_a_name_with_special_characters_stays_whole(
    trapped: Trapped, tmp_path: Path, name: str, serve: Serve
) -> None:
    asked: list[str] = []

    def script(path: str) -> Reply:
        asked.append(path)
        return 200, b"{}"

    subject = Subject(trapped.model)
    shown, docker, curl = command_lines(subject, tmp_path / name / "1")
    run(curl.replace("http://localhost:8501", serve(script)), tmp_path)
    (path,) = asked
    assert unquote(path) == f"/v1/models/{name}:predict"
    # No other character may stand in a path as it is.
    assert re.fullmatch(r"/v1/models/[\w.~%-]+:predict", path, re.ASCII)
    assert docker.startswith("docker run --rm -p 8500:8500 -p 8501:8501 -v ")
    assert f"{tmp_path / name}:/models/model:ro" in shlex.split(docker)
    assert shlex.split(docker)[-2:] == ["tensorflow/serving", f"--model_name={name}"]
    assert str(tmp_path / name / "1") in shlex.split(shown)


def test_a_line_asks_with_a_pixel_in_the_bounds_and_of_the_models_shape() -> None:
    images = keras.Input((4, 3))
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(images)))
    subject = Subject(
        model, bounds=(100, 200), signatures=("serving_default", "serving_uint8")
    )
    *_, floats, levels = command_lines(subject, Path("m", "1"))
    assert "'instances': [[[150.0] * 3] * 4]}" in floats
    assert "'instances': [[[128] * 3] * 4]}" in levels


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_gets_the_answer_of_every_signature(
    exported: serving.Exported, tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow_serving.apis")
    from tests.serving import reference_server

    grey = np.full((8, 8, 1), 77, np.uint8)
    (tmp_path / "image.png").write_bytes(tf.io.encode_png(grey).numpy())
    pixels = {"image": np.full((1, 8, 8, 1), 0.5, np.float32)}
    asked: dict[str, dict[str, Any]] = {
        **dict.fromkeys(("serving_default", "analyze", "integrated"), pixels),
        "serving_uint8": {"image": np.full((1, 8, 8, 1), 128, np.uint8)},
        "image_bytes": {"image_bytes": [(tmp_path / "image.png").read_bytes()]},
    }
    signatures = load(exported.path)
    lines = dict(zip(exported.signatures, exported.commands[2:], strict=True))
    assert set(lines) == set(asked)
    with reference_server.serving("digits", exported.path.parent) as (_, address):
        for name, line in lines.items():
            here = line.replace("http://localhost:8501", address)
            (answer,) = json.loads(run(here, tmp_path))["predictions"]
            expected = signatures[name](**asked[name])
            assert set(answer) == set(expected)
            assert answer["label"] == expected["label"][0].decode()
            np.testing.assert_allclose(
                answer["probabilities"], expected["probabilities"][0], 0, 1e-5
            )
