import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.serving.client import TensorSpec
from keras_traps.serving.client.__main__ import main, read_files
from tests.serving.conftest import SHAPE, Offline, Serve, answering, images

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
    return functools.partial(run, "predict", f"--address={address}", "--model=digits")


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
    pixels = np.arange(64, dtype=np.uint8).reshape(SHAPE)
    png, deep = tmp_path / "digit.png", tmp_path / "deep.png"
    png.write_bytes(tf.io.encode_png(pixels).numpy())
    # Of 16 bits the upper 8 are taken.
    deep.write_bytes(tf.io.encode_png(pixels.astype(np.uint16) * 257).numpy())
    code, lines, _ = predict(*(png, deep), f"--signature={signature}", "--bounds", 0, 1)
    assert code == 0
    expected = offline("serving_uint8", pixels[np.newaxis])
    assert len(lines) == 2
    for line in lines:
        assert line["label"] == expected["label"][0]
        np.testing.assert_allclose(
            line["probabilities"], expected["probabilities"][0], 1e-5
        )


def test_versions_and_signatures_are_shown(run: Run, address: str) -> None:
    target = (f"--address={address}", "--model=digits")
    code, lines, _ = run("status", *target)
    assert (code, lines) == (0, [{"version": 1, "state": "AVAILABLE", "error": ""}])
    code, lines, _ = run("signatures", *target)
    assert code == 0
    assert lines[0]["signature"] == "analyze"
    assert lines[0]["inputs"] == {"image": "float32 (batch, 8, 8, 1)"}


def test_what_is_not_there_or_cannot_be_read_is_told(
    predict: Run, tmp_path: Path
) -> None:
    png, npy = tmp_path / "image.png", tmp_path / "batch.npy"
    bounds = ("--bounds", 0, 1)
    assert "image.png" in predict(png, *bounds)[2]
    png.write_bytes(b"no image")
    assert f"{png}: expected an image (" in predict(png, *bounds)[2]
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00"):
        npy.write_bytes(content)
        assert predict(npy)[2].startswith(f"{npy}: expected an array (")
    np.save(npy, images(1))
    code, lines, error = predict(npy, "--signature=nope")
    assert (code, lines) == (1, [])
    assert "no signature 'nope'" in error
    assert "no signature 'nope'" in predict(png, "--signature=nope")[2]


def test_a_file_for_a_signature_of_floats_needs_bounds_and_one_of_levels_does_not(
    predict: Run, tmp_path: Path
) -> None:
    png = tmp_path / "digit.png"
    png.write_bytes(tf.io.encode_png(np.zeros(SHAPE, np.uint8)).numpy())
    code, lines, error = predict(png, "--signature=analyze")
    assert (code, lines) == (1, [])
    assert "Expected --bounds for a signature of floats" in error
    assert "argument `--bounds`" in predict(png, "--bounds", 1, 0)[2]
    for signature in ("serving_uint8", "image_bytes"):
        assert predict(png, f"--signature={signature}")[0] == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((None, 2, 3, 1), "float32", [[[-1], [0.6], [1]], [[-1], [0.6], [1]]]),
        ((None, 2, 3), "float32", [[-1, 0.6, 1], [-1, 0.6, 1]]),
        ((None, 6), "float32", [-1, 0.6, 1, -1, 0.6, 1]),
        ((None, 2, 3), "int32", [[0, 204, 255], [0, 204, 255]]),
    ],
)
def test_a_file_becomes_an_image_of_the_signatures_shape_and_bounds(
    tmp_path: Path, shape: tuple[int | None, ...], dtype: str, expected: Any
) -> None:
    png = tmp_path / "image.png"
    levels = np.array([[0, 204, 255]] * 2, np.uint8)[..., np.newaxis]
    png.write_bytes(tf.io.encode_png(levels).numpy())
    images = read_files([png], TensorSpec(dtype, shape), (-1, 1))
    np.testing.assert_array_equal(images, np.asarray([expected], np.float32))


def test_an_output_without_a_row_per_image_is_whole_in_each_line(
    run: Run, serve: Serve, tmp_path: Path
) -> None:
    npy = tmp_path / "batch.npy"
    np.save(npy, np.zeros(2, np.float32))
    address = serve(answering({"a": [7.0], "b": ["x", "y"]}))
    code, lines, _ = run("predict", npy, f"--address={address}", "--model=m")
    assert code == 0
    assert lines == [{"a": [7.0], "b": "x"}, {"a": [7.0], "b": "y"}]


def test_a_failure_is_one_line(run: Run) -> None:
    status = ("status", "--address=http://127.0.0.1:9", "--model=m")
    code, _, error = run(*status, "--retries=0")
    assert code == 1
    assert error.startswith("UNAVAILABLE: ")
    code, _, error = run(*status, "--timeout=inf")
    assert code == 1
    assert error.endswith("at most 2147483. Received: timeout=inf\n")
