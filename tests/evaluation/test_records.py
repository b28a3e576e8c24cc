import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_traps.attacks import create
from keras_traps.datasets import Dataset
from keras_traps.evaluation.records import (
    Record,
    RecordStore,
    Trial,
    check_workdir,
    folder_of,
    read_runs,
    record_settings,
)
from keras_traps.evaluation.subjects import Defence
from tests.evaluation.conftest import make_record, make_run

SETTINGS = {"seed": 1, "chunk_size": 4, "thresholds": (0.5, -0.5)}


def assert_same(one: Record, other: Record) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)
        assert values.dtype == other[name].dtype


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, SETTINGS)
    record = make_record(target=np.arange(6))
    assert not store.has("paper/FGSM", 3)
    store.write("paper/FGSM", 3, record)
    assert store.has("paper/FGSM", 3)
    assert_same(RecordStore.open(tmp_path).read("paper/FGSM", 3), record)


def test_joined_records_keep_the_first_images_of_all() -> None:
    kept = np.arange(24, dtype=np.float32).reshape(6, 2, 2, 1)
    parts = [make_record(2, kept=kept[:2]), make_record(4, kept=kept[2:])]
    joined = Record.join(parts, kept=4)
    assert len(joined) == 6
    np.testing.assert_array_equal(joined["kept"], kept[:4])
    np.testing.assert_array_equal(joined["answer"], [0, 1, 0, 1, 2, 0])
    assert_same(joined.take(2), parts[0])


def test_a_targeted_attack_succeeds_at_its_target_alone() -> None:
    record = make_record(3, answer=[0, 2, 1], targets=[1, 2, 2])
    np.testing.assert_array_equal(record.misclassified, [False, True, True])
    np.testing.assert_array_equal(record.succeeded(targeted=True), [False, True, False])
    np.testing.assert_array_equal(record.succeeded(targeted=False), [False, True, True])


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, SETTINGS)
    store.write("paper/FGSM", 0, make_record())
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"00000\.npz is damaged.*Delete it"):
        store.read("paper/FGSM", 0)


def test_a_directory_in_use_is_refused_without_resume(tmp_path: Path) -> None:
    RecordStore(tmp_path, SETTINGS)
    with pytest.raises(FileExistsError, match=r"holds records already.*--resume"):
        check_workdir(tmp_path, resume=False)
    with pytest.raises(FileExistsError, match="holds records already"):
        RecordStore(tmp_path, SETTINGS)
    RecordStore(tmp_path, SETTINGS, resume=True)


def test_records_whose_settings_differ_are_gone_or_damaged_are_refused(
    tmp_path: Path,
) -> None:
    RecordStore(tmp_path, SETTINGS).write("paper/FGSM", 0, make_record())
    other = {**SETTINGS, "seed": 2, "norm": "l2"}
    with pytest.raises(ValueError, match="other settings: norm, seed differ"):
        RecordStore(tmp_path, other, resume=True)
    path = tmp_path / "records" / "settings.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json are damaged"):
        RecordStore(tmp_path, SETTINGS, resume=True)
    path.unlink()
    with pytest.raises(ValueError, match="what made them is unknown"):
        RecordStore(tmp_path, SETTINGS, resume=True)


def test_where_nothing_was_run_nothing_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no records"):
        RecordStore.open(tmp_path)
    assert read_runs(tmp_path) == []


def test_settings_tell_all_that_records_depend_on(
    digits_defence: Defence, digits_test: Dataset, digits_train: Dataset
) -> None:
    def told(**changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "seed": 0,
            "chunk_size": 5,
            "background": digits_train.images,
            "defence": digits_defence,
        }
        return record_settings(digits_test, **arguments | changes)

    whole = told()
    assert whole == told()
    swapped = dataclasses.replace(digits_defence, classifier=digits_defence.trapped)
    for changes, differing in (
        ({"seed": 1}, {"seed"}),
        ({"background": digits_train.images[:5]}, {"background"}),
        ({"defence": swapped}, {"classifier", "architectures"}),
    ):
        other = told(**changes)
        assert {name for name in whole if whole[name] != other[name]} == differing
    luring = record_settings(digits_test, seed=0, chunk_size=5)
    assert {"test_data", "seed", "chunk_size"} <= luring.keys() < whole.keys()


@pytest.mark.parametrize(
    ("kept", "expected"),
    [((3, 3, 3), 9), ((3, 2, 2), 5), ((2, 2, 2), 2), ((0, 0, 0), 0)],
)
def test_a_run_keeps_its_first_images_as_far_as_all_are_there(
    kept: tuple[int, ...], expected: int, tmp_path: Path
) -> None:
    pixels = np.arange(9, dtype=np.float32).reshape(9, 1, 1, 1)
    run = make_run("paper", "PGD", images=9, chunks=3)
    store = RecordStore(tmp_path, {})
    for chunk, count in enumerate(kept):
        own = pixels[3 * chunk : 3 * chunk + count]
        store.write(run.folder, chunk, make_record(3, kept=own))
    np.testing.assert_array_equal(run.read(store)["kept"], pixels[:expected])


def test_a_folder_is_for_one_setting() -> None:
    small, large = (create("FGSM", eps=eps).settings() for eps in (0.1, 0.2))
    folders = {folder_of("FGSM", told) for told in ([small], [large], [small, large])}
    assert len(folders) == 3
    assert folder_of("FGSM", [small]) in folders
    assert folder_of("paper", []) == "paper"
    with pytest.raises(TypeError, match=r"settings of 'Odd'.*plain data"):
        folder_of("Odd", [{1, 2}])


def test_runs_survive_their_files(tmp_path: Path) -> None:
    trial = Trial({"prob": 0.5}, images=4, standing=2, defended=3)
    runs = [
        make_run("luring-ce", "MIM", eps=0.2, trials=(trial,)),
        make_run("luring-ce", "FGSM", facts={"target": "abc"}),
        make_run("luring-ce", "FGSM", eps=0.3, about={"threat": "luring"}),
        make_run("luring-ce", "cleverhans/PGD"),
    ]
    dataclasses.replace(runs[2], images=9).write(tmp_path)
    for run in runs[::-1]:
        run.write(tmp_path)
    assert read_runs(tmp_path, ["MIM", "FGSM"]) == runs
    path = tmp_path / "runs" / "luring-ce" / "FGSM_0.3.json"
    path.write_text('{"subject": "luring-ce"}')
    with pytest.raises(ValueError, match=r"FGSM_0\.3\.json is damaged.*--resume"):
        read_runs(tmp_path)
