"""Version folders, the warm-up file, and what is left after a failure."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps import serving
from keras_traps.serving import exporter
from tests.serving.conftest import SETTINGS, Trapped, load, operations

export = functools.partial(serving.export, warmup_batch_sizes=(), verbose=False)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_the_self_test_reports_every_signature(exported: serving.Exported) -> None:
    found = exported.self_test
    assert set(found.live) == set(found.alone) == set(exported.signatures)
    assert max(*found.live.values(), *found.alone.values()) <= 1
    assert found.num_images == 12


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

    def half(holder: Any, directory: str, **_: Any) -> None:
        Path(directory, "saved_model.pb").write_bytes(b"half")
        full_disk()

    monkeypatch.setattr(tf.saved_model, "save", half)
    with pytest.raises(OSError, match="No space left"):
        export(trapped.model, tmp_path / "other")
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"version": "2"}, "argument `version`"),
        ({"version": 2.0}, "argument `version`"),
        ({"version": True}, "argument `version`"),
        ({"version": 0}, "argument `version`"),
        ({"version": 2**63}, "argument `version`"),
        ({"warmup_batch_sizes": (0,)}, "argument `warmup_batch_sizes`"),
        ({"warmup_batch_sizes": (1.5,)}, "argument `warmup_batch_sizes`"),
        ({"warmup_batch_sizes": range(1, 1002)}, "at most 1000"),
        ({"metrics": {"accuracy": float("nan")}}, "argument `metrics`"),
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


def test_a_file_in_the_place_of_the_folder_is_refused(
    trapped: Trapped, tmp_path: Path
) -> None:
    (tmp_path / "model").write_text("precious")
    with pytest.raises(NotADirectoryError):
        export(trapped.model, tmp_path / "model")
    assert (tmp_path / "model").read_text() == "precious"


def test_only_numbers_are_versions(tmp_path: Path) -> None:
    for name in ("1", "10", "007", "v2", ".exporting-3", "-4", "1.5", "٣", "README.md"):
        (tmp_path / name).mkdir()
    assert exporter.versions(tmp_path) == (1, 7, 10)
    assert exporter.versions(tmp_path / "missing") == ()
    # Under any spelling of its number.
    with pytest.raises(FileExistsError):
        exporter.check_free(tmp_path, 7)


def test_staging_leaves_nothing_unless_published(tmp_path: Path) -> None:
    model = tmp_path / "a" / "model"
    with exporter.staging(model) as folder:
        (folder / "file").write_text("half")
        assert exporter.versions(model) == ()
    assert not model.exists()
    with exporter.staging(model) as folder:
        (folder / "file").write_text("whole")
        assert exporter.publish(folder, model, None) == 1
    assert (model / "1" / "file").read_text() == "whole"
    assert [path.name for path in model.iterdir()] == ["1"]


def test_a_version_that_came_meanwhile_is_never_replaced(tmp_path: Path) -> None:
    with exporter.staging(tmp_path) as folder:
        (folder / "file").write_text("ours")
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "file").write_text("theirs")
        with pytest.raises(FileExistsError):
            exporter.publish(folder, tmp_path, 3)
        assert exporter.publish(folder, tmp_path, None) == 4
    assert (tmp_path / "3" / "file").read_text() == "theirs"


def test_the_next_number_is_taken_where_another_exporter_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def race(self: Path, target: Path) -> Path:
        if not (tmp_path / "1").exists():
            target.mkdir()
            (target / "file").write_text("theirs")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", race)
    with exporter.staging(tmp_path) as folder:
        (folder / "file").write_text("ours")
        assert exporter.publish(folder, tmp_path, None) == 2
    assert (tmp_path / "1" / "file").read_text() == "theirs"
    assert (tmp_path / "2" / "file").read_text() == "ours"


def test_a_rename_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "rename", full_disk)
    with (
        pytest.raises(OSError, match="No space left"),
        exporter.staging(tmp_path) as folder,
    ):
        exporter.publish(folder, tmp_path, None)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def logs() -> Any:
    return pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="no tensorflow-serving-api: install it with --no-deps",
    )


def test_each_warmup_record_parses_and_runs(
    logs: Any, exported: serving.Exported
) -> None:
    signatures = load(exported.path)
    seen = []
    for record in tf.data.TFRecordDataset(str(exported.path / exporter.WARMUP_FILE)):
        log = logs.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "digits"
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        answer = signatures[name](**inputs)
        (batch,) = inputs.values()
        assert len(answer["class_id"]) == len(batch)
        seen.append((name, len(batch)))
    assert sorted(seen) == sorted(
        (name, size) for name in exported.signatures for size in (1, 3)
    )


def test_a_warmup_record_has_the_bytes_of_the_official_classes(logs: Any) -> None:
    batch = tf.constant(np.random.default_rng(0).random((100, 2), np.float32))
    log = logs.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "modèle"
    request.model_spec.signature_name = "serving_default"
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(batch))
    ours = exporter.prediction_log("modèle", "serving_default", "image", batch)
    assert ours == log.SerializeToString(deterministic=True)
