"""Version folders, the warm-up file, and what is left after a failure."""

import functools
import io
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import serving
from keras_traps.serving import exporter
from tests.serving.conftest import SETTINGS, Trapped, load, operations

export = functools.partial(serving.export, warmup_batch_sizes=(), verbose=False)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_no_half_version(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    for where in ("write_warmup", "write_metadata", "self_test"):
        with monkeypatch.context() as patch:
            patch.setattr(exporter, where, full_disk)
            with pytest.raises(OSError, match="No space left"):
                export(trapped.model, tmp_path / "model", warmup_batch_sizes=(1,))
        assert [path.name for path in (tmp_path / "model").iterdir()] == ["1"]

    monkeypatch.setattr(Path, "rename", full_disk)
    with exporter.staging(tmp_path / "other") as folder:
        (folder / "file").write_text("half")
        assert exporter.versions(tmp_path / "other") == []
        with pytest.raises(OSError, match="No space left"):
            exporter.publish(folder, tmp_path / "other", None)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("quick_self_test")
def test_what_is_not_asked_for_is_not_in_the_graph(
    trapped: Trapped, exported: serving.Exported, tmp_path: Path
) -> None:
    path = export(
        trapped.model,
        tmp_path,
        analyzer=trapped.analyzer,
        signatures=("serving_default",),
    ).path
    assert set(load(path)) == {"serving_default"}
    content = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    found = trapped.analyzer.thresholds
    limits = (found.upper, -found.lower, found.deviation, found.score)
    for number in (*limits, *found.centre, *found.scale):
        assert np.float64(number).tobytes() not in content
        assert np.float32(number).tobytes() not in content
    # The recovered class is the one of lowest correlation.
    assert "ArgMin" not in {node.op for node in operations(path)}
    assert not (path / exporter.WARMUP_FILE).exists()
    # They are in an analysis, so that their absence says something.
    content = (exported.path / "saved_model.pb").read_bytes()
    assert np.array(limits[:2]).tobytes() in content
    assert "ArgMin" in {node.op for node in operations(exported.path)}


def test_no_seed_and_no_path_is_in_any_file(exported: serving.Exported) -> None:
    for file in exported.path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert str(SETTINGS.seed).encode() not in content, file
            assert SETTINGS.seed.to_bytes(4, "little") not in content, file
            assert str(Path(__file__).parents[2]).encode() not in content, file


@pytest.mark.usefixtures("quick_self_test")
def test_versions_count_up_and_what_is_written_is_told(
    trapped: Trapped, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "41").mkdir()
    exported = serving.export(
        trapped.model, tmp_path, warmup_batch_sizes=(), verbose=True
    )
    assert exported.version == 42
    printed = capsys.readouterr().out
    assert f"Exported {exported.path} with serving_default.\n" in printed
    assert "8 images answered as by the live model" in printed
    assert all(f"\n  {line}\n" in printed for line in exported.commands)
    with pytest.raises(FileExistsError, match="there are 41, 42"):
        export(trapped.model, tmp_path, version=42)
    assert export(trapped.model, tmp_path, version=7).path.name == "7"


@pytest.mark.usefixtures("quick_self_test")
def test_what_was_found_out_of_a_model_is_told(
    target: keras.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in (None, "logits"):
        serving.export(
            *(target, tmp_path),
            output=output,
            bounds=(0, 255),
            warmup_batch_sizes=(),
        )
        printed = capsys.readouterr().out
        assert "are taken in [0, 255].\n" in printed
        told = "What the model returns on noise looks like logits.\n"
        assert (told in printed) == (output is None)


class BrokenPipe(io.StringIO):
    """What a reader left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.usefixtures("quick_self_test")
@pytest.mark.parametrize("stdout", [None, closed(), BrokenPipe()])
def test_a_version_that_is_published_is_no_error_where_nothing_can_be_printed(
    trapped: Trapped,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stdout: io.StringIO | None,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        exported = serving.export(trapped.model, tmp_path, warmup_batch_sizes=())
    assert (exported.path / "saved_model.pb").exists()


@pytest.mark.usefixtures("quick_self_test")
def test_a_folder_is_told_as_far_as_the_terminal_can_write_its_name(
    trapped: Trapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    with monkeypatch.context() as patch:
        terminal = io.TextIOWrapper(written, encoding="cp1252")
        patch.setattr(sys, "stdout", terminal)
        serving.export(trapped.model, tmp_path / "模型 é", warmup_batch_sizes=())
    printed = written.getvalue().decode("cp1252")
    assert "\\u6a21\\u578b é" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"bounds": (1, 0)}, "argument `bounds`"),
        ({"version": 0}, "argument `version`"),
        ({"version": 2**63}, "argument `version`"),
        ({"warmup_batch_sizes": (0,)}, "argument `warmup_batch_sizes`"),
        ({"warmup_batch_sizes": range(1, 1002)}, "at most 1000"),
        ({"metrics": {"accuracy": float("nan")}}, "argument `metrics"),
        ({"data_sha256": "abc"}, "argument `data_sha256`"),
        ({"examples": np.zeros((1, 9, 8, 1))}, "argument `examples`"),
    ],
)
def test_a_wrong_argument_is_told_and_nothing_is_made(
    trapped: Trapped, tmp_path: Path, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        export(trapped.model, tmp_path / "model", **arguments)
    assert not list(tmp_path.iterdir())


def test_only_numbers_are_versions(tmp_path: Path) -> None:
    for name in ("1", "10", "007", "v2", ".exporting-3", "-4", "1.5", "٣", "README.md"):
        (tmp_path / name).mkdir()
    assert exporter.versions(tmp_path) == [1, 7, 10]
    assert exporter.versions(tmp_path / "missing") == []
    # Under any spelling of its number.
    with pytest.raises(FileExistsError):
        exporter.check_free(tmp_path, 7)


def test_a_version_of_a_faster_exporter_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def race(self: Path, target: Path) -> Path:
        if target.name != "4":
            target.mkdir()
            (target / "file").write_text("theirs")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", race)
    with exporter.staging(tmp_path) as folder:
        (folder / "file").write_text("ours")
        with pytest.raises(FileExistsError):
            exporter.publish(folder, tmp_path, 2)
        assert exporter.publish(folder, tmp_path, None) == 4
    found = [(tmp_path / name / "file").read_text() for name in "234"]
    assert found == ["theirs", "theirs", "ours"]


def test_each_warmup_record_is_as_the_official_classes_write_it_and_runs(
    exported: serving.Exported,
) -> None:
    logs = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="no tensorflow-serving-api: install it with --no-deps",
    )
    signatures = load(exported.path)
    seen = []
    for record in tf.data.TFRecordDataset(str(exported.path / exporter.WARMUP_FILE)):
        log = logs.PredictionLog.FromString(record.numpy())
        assert log.SerializeToString(deterministic=True) == record.numpy()
        request = log.predict_log.request
        assert request.model_spec.name == "digits"
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        (batch,) = inputs.values()
        assert len(signatures[name](**inputs)["class_id"]) == len(batch)
        seen.append((name, len(batch)))
    assert sorted(seen) == sorted(
        (name, size) for name in exported.signatures for size in (1, 3)
    )
