import functools
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_traps.serving.client.__main__ import main
from tests.serving.foreign_server import Script, answering
from tests.serving.tiny_model import SHAPE, Offline, images

Ran = tuple[int, list[dict[str, Any]], str]
Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line; gives its code, its lines and its error."""

    def run(*argv: object) -> Ran:
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines()]
        return code, lines, captured.err

    return run


@pytest.fixture
def predict(run: Run, address: str) -> Run:
    """Asks the tiny model."""
    return functools.partial(run, "predict", f"--address={address}", "--model=tiny")


@pytest.fixture
def ask(run: Run, serve: Callable[[Script], str]) -> Run:
    """Asks a server that answers with 1 and 2."""
    address = serve(answering({"a": [1.0, 2.0], "b": ["x", "y"]}))
    return functools.partial(run, "predict", f"--address={address}", "--model=m")


def test_a_batch_of_arrays_is_answered_line_by_line(
    predict: Run, offline: Offline, tmp_path: Path
) -> None:
    np.save(tmp_path / "batch.npy", images(3))
    answers = tmp_path / "answers.npz"
    code, lines, _ = predict(
        tmp_path / "batch.npy", "--signature=analyze", f"--output={answers}"
    )
    expected = offline("analyze", images(3))
    assert code == 0
    assert [line["label"] for line in lines] == expected["label"].tolist()
    with np.load(answers) as written:
        assert set(written) == set(expected)
        np.testing.assert_array_equal(written["score"], expected["score"])


@pytest.mark.parametrize(
    "signature", ["serving_default", "serving_uint8", "image_bytes"]
)
def test_an_image_file_goes_as_the_signature_takes_it(
    predict: Run, offline: Offline, tmp_path: Path, signature: str
) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(1, *SHAPE)
    png = tmp_path / "digit.png"
    png.write_bytes(tf.io.encode_png(pixels[0]).numpy())
    code, lines, _ = predict(png, png, f"--signature={signature}")
    assert code == 0
    expected = offline("serving_uint8", pixels)
    assert len(lines) == 2
    for line in lines:
        assert line["label"] == expected["label"][0]
        np.testing.assert_allclose(
            line["probabilities"], expected["probabilities"][0], 1e-5
        )


def test_versions_and_signatures_are_shown(run: Run, address: str) -> None:
    target = (f"--address={address}", "--model=tiny")
    code, lines, _ = run("status", *target)
    assert (code, lines) == (0, [{"version": 3, "state": "AVAILABLE", "error": ""}])
    code, lines, _ = run("signatures", *target)
    assert code == 0
    assert lines[0]["signature"] == "analyze"
    assert lines[0]["inputs"] == {"image": "float32 (batch, 8, 8, 1)"}


def test_what_is_not_there_is_told(predict: Run, tmp_path: Path) -> None:
    code, lines, error = predict(tmp_path / "image.png")
    assert (code, lines) == (1, [])
    assert "image.png" in error
    (tmp_path / "image.png").write_bytes(b"no image")
    assert "image.png" in predict(tmp_path / "image.png")[2]
    np.save(tmp_path / "batch.npy", images(1))
    code, lines, error = predict(tmp_path / "batch.npy", "--signature=nope")
    assert (code, lines) == (1, [])
    assert "no signature 'nope'" in error


@pytest.mark.parametrize(
    ("dtype", "ending", "mode"),
    [(np.uint16, "png", "I;16"), (np.float32, "tiff", "F")],
)
def test_an_image_of_more_than_8_bits_is_refused(
    ask: Run, tmp_path: Path, dtype: type[np.generic], ending: str, mode: str
) -> None:
    path = tmp_path / f"image.{ending}"
    Image.fromarray(np.full((8, 8), 1000, dtype)).save(path)
    code, lines, error = ask(path)
    assert (code, lines) == (1, [])
    assert f"{path}: expected an image of 8 bits per channel" in error
    assert f"mode '{mode}'" in error


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_file_that_holds_no_array_is_told(
    ask: Run, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "batch.npy"
    path.write_bytes(content)
    code, lines, error = ask(path)
    assert (code, lines) == (1, [])
    assert error.startswith(f"{path}: expected an array of images")


@pytest.mark.parametrize(
    ("a", "expected"),
    [([1.0, 2.0], [1.0, 2.0]), (7.0, [7.0, 7.0]), ([7.0], [[7.0], [7.0]])],
)
def test_an_output_without_a_row_per_image_is_whole_in_each_line(
    run: Run,
    serve: Callable[[Script], str],
    tmp_path: Path,
    a: Any,
    expected: list[Any],
) -> None:
    np.save(tmp_path / "batch.npy", np.zeros(2, np.float32))
    address = serve(answering({"a": a, "b": ["x", "y"]}))
    code, lines, _ = run(
        "predict", tmp_path / "batch.npy", f"--address={address}", "--model=m"
    )
    assert code == 0
    assert [line["a"] for line in lines] == expected
    assert [line["b"] for line in lines] == ["x", "y"]


def test_a_failure_is_one_line(run: Run) -> None:
    status = ("status", "--address=http://127.0.0.1:9", "--model=m")
    code, _, error = run(*status, "--retries=0")
    assert code == 1
    assert error.startswith("UNAVAILABLE: ")
    code, _, error = run(*status, "--timeout=inf")
    assert code == 1
    assert error.endswith("at most 2147483. Received: timeout=inf\n")


def test_it_runs_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "keras_traps.serving.client"
    # A module that was imported already is not run without a warning.
    monkeypatch.delitem(sys.modules, f"{name}.__main__")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module(name, run_name="__main__")
    assert "run a signature on images" in capsys.readouterr().out
