import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_traps.evaluation.records import Record, RecordStore, check_workdir
from tests.evaluation.factories import make_record

SETTINGS = {"seed": 3, "attacks": {"FGSM": {"eps": 0.1}}, "limits": (0.1, 0.2)}


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def assert_same(one: Record, other: Record) -> None:
    for field in dataclasses.fields(Record):
        here, there = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(here, there)
        assert here.dtype == there.dtype


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, SETTINGS)
    record = make_record(
        answers=[2, 2, 2, 1, 1, 1],
        correlations=np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32),
    )
    assert not store.has("paper", "FGSM", 1)

    store.write("paper", "FGSM", 1, record)

    assert store.has("paper", "FGSM", 1)
    assert_same(store.read("paper", "FGSM", 1), record)
    for other in (("margin", "FGSM", 1), ("paper", "BIM", 1), ("paper", "FGSM", 0)):
        assert not store.has(*other)


def test_only_whole_files_are_left(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, SETTINGS)
    store.write("paper", "FGSM", 0, make_record())
    assert files(tmp_path) == ["records/paper/FGSM/00000.npz", "records/settings.json"]


def test_a_record_whose_writing_fails_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RecordStore(tmp_path, SETTINGS)

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        store.write("paper", "FGSM", 0, make_record())
    assert not store.has("paper", "FGSM", 0)
    assert files(tmp_path) == ["records/settings.json"]


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_damaged_record_is_named(tmp_path: Path, keep: int) -> None:
    store = RecordStore(tmp_path, SETTINGS)
    store.write("paper", "FGSM", 0, make_record())
    path = tmp_path / "records" / "paper" / "FGSM" / "00000.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"paper/FGSM/00000\.npz is damaged.*Delete"):
        store.read("paper", "FGSM", 0)


def test_a_record_that_lacks_an_array_is_damaged(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, SETTINGS)
    store.write("paper", "FGSM", 0, make_record())
    path = tmp_path / "records" / "paper" / "FGSM" / "00000.npz"
    np.savez(path, ids=np.arange(3))
    with pytest.raises(ValueError, match=r"is damaged.*labels"):
        store.read("paper", "FGSM", 0)


def test_records_of_objects_are_not_read(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, SETTINGS)
    store.write("paper", "FGSM", 0, make_record())
    path = tmp_path / "records" / "paper" / "FGSM" / "00000.npz"
    evil = np.array([{"a": 1}], dtype=object)
    arrays: dict[str, Any] = {field.name: evil for field in dataclasses.fields(Record)}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"is damaged.*pickle"):
        store.read("paper", "FGSM", 0)


def test_resuming_keeps_what_is_there(tmp_path: Path) -> None:
    RecordStore(tmp_path, SETTINGS).write("paper", "FGSM", 0, make_record())
    again = RecordStore(tmp_path, SETTINGS, resume=True)
    assert_same(again.read("paper", "FGSM", 0), make_record())


def test_resuming_in_a_new_directory_begins(tmp_path: Path) -> None:
    RecordStore(tmp_path / "a" / "b", SETTINGS, resume=True)
    assert files(tmp_path) == ["a/b/records/settings.json"]


def test_a_directory_in_use_is_refused_unless_resumed(tmp_path: Path) -> None:
    RecordStore(tmp_path, SETTINGS)
    for refuse in (
        lambda: RecordStore(tmp_path, SETTINGS),
        lambda: check_workdir(tmp_path, resume=False),
    ):
        with pytest.raises(FileExistsError, match=r"holds records already.*--resume"):
            refuse()
    check_workdir(tmp_path, resume=True)


def test_other_files_in_the_directory_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("{}")
    (tmp_path / "report").mkdir()
    check_workdir(tmp_path, resume=False)
    RecordStore(tmp_path, SETTINGS)


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    RecordStore(tmp_path, SETTINGS)
    other = {**SETTINGS, "seed": 4, "attacks": {"FGSM": {"eps": 0.2}}, "new": 1}
    with pytest.raises(ValueError, match="other settings: attacks, new, seed differ"):
        RecordStore(tmp_path, other, resume=True)
    fewer = {"attacks": SETTINGS["attacks"], "limits": [0.1, 0.2]}
    with pytest.raises(ValueError, match="other settings: seed differ"):
        RecordStore(tmp_path, fewer, resume=True)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3"])
def test_damaged_settings_are_told(tmp_path: Path, content: str) -> None:
    RecordStore(tmp_path, SETTINGS)
    (tmp_path / "records" / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json are damaged"):
        RecordStore(tmp_path, SETTINGS, resume=True)


@pytest.mark.parametrize("resume", [True, False])
def test_records_without_their_settings_are_refused(
    tmp_path: Path, resume: bool
) -> None:
    RecordStore(tmp_path, SETTINGS).write("paper", "FGSM", 0, make_record())
    (tmp_path / "records" / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"holds records without their settings\.json"):
        RecordStore(tmp_path, SETTINGS, resume=resume)
    assert files(tmp_path) == ["records/paper/FGSM/00000.npz"]


def test_settings_are_readable(tmp_path: Path) -> None:
    RecordStore(tmp_path, SETTINGS)
    found = json.loads((tmp_path / "records" / "settings.json").read_text())
    assert found["format"] == 2
    assert found["attacks"] == {"FGSM": {"eps": 0.1}}


def test_a_file_in_the_way_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match=r"`workdir`. Expected a directory"):
        RecordStore(tmp_path / "run", SETTINGS)


def test_chunks_are_joined_in_their_order() -> None:
    first, second = make_record(4, ids=[5, 6, 7, 8]), make_record(2, ids=[1, 2])
    joined = Record.join([first, second])
    assert joined.ids.tolist() == [5, 6, 7, 8, 1, 2]
    assert joined.correlations.shape == (6, 3)
    assert joined.kept.shape == (4, 2, 2, 1)


def test_success_of_a_targeted_attack_is_the_target_and_else_a_wrong_class() -> None:
    record = make_record(
        labels=[0, 0, 0, 1], goals=[1, 1, 1, 2], answers=[0, 1, 2, 1], ids=range(4)
    )
    assert record.misclassified.tolist() == [False, True, True, False]
    assert record.succeeded(targeted=False).tolist() == [False, True, True, False]
    assert record.succeeded(targeted=True).tolist() == [False, True, False, False]
