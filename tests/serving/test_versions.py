from pathlib import Path

import pytest

from keras_traps.serving import versions


def test_only_numbers_are_versions(tmp_path: Path) -> None:
    for name in ("1", "10", "007", "v2", ".exporting-3", "-4", "1.5", "٣", "README.md"):
        (tmp_path / name).mkdir()
    assert versions.versions(tmp_path) == (1, 7, 10)
    assert versions.versions(tmp_path / "missing") == ()


def test_a_version_is_there_under_any_spelling_of_its_number(tmp_path: Path) -> None:
    (tmp_path / "007").mkdir()
    with pytest.raises(FileExistsError):
        versions.check_free(tmp_path, 7)


def test_staging_leaves_nothing_unless_published(tmp_path: Path) -> None:
    model = tmp_path / "a" / "model"
    with versions.staging(model) as folder:
        (folder / "file").write_text("half")
        assert versions.versions(model) == ()
    assert not model.exists()
    with versions.staging(model) as folder:
        (folder / "file").write_text("whole")
        assert versions.publish(folder, model, None) == 1
    assert (model / "1" / "file").read_text() == "whole"
    assert [path.name for path in model.iterdir()] == ["1"]


def test_a_version_that_came_meanwhile_is_never_replaced(tmp_path: Path) -> None:
    with versions.staging(tmp_path) as folder:
        (folder / "file").write_text("ours")
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "file").write_text("theirs")
        with pytest.raises(FileExistsError):
            versions.publish(folder, tmp_path, 3)
        assert versions.publish(folder, tmp_path, None) == 4
    assert (tmp_path / "3" / "file").read_text() == "theirs"


def test_the_next_number_is_taken_where_another_exporter_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename
    raced: list[Path] = []

    def race(self: Path, target: Path) -> Path:
        if not raced:
            raced.append(target)
            target.mkdir()
            (target / "file").write_text("theirs")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", race)
    with versions.staging(tmp_path) as folder:
        (folder / "file").write_text("ours")
        assert versions.publish(folder, tmp_path, None) == 2
    assert (tmp_path / "1" / "file").read_text() == "theirs"
    assert (tmp_path / "2" / "file").read_text() == "ours"


def test_a_rename_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    with (
        pytest.raises(OSError, match="No space left"),
        versions.staging(tmp_path) as folder,
    ):
        versions.publish(folder, tmp_path, None)
    assert not list(tmp_path.iterdir())
