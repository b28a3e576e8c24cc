import json
from pathlib import Path

import numpy as np
import pytest

from keras_traps._files import keep_settings, make_writable, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_rest(
    method: str,
    error: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    original = Path.write_bytes

    def fail(temporary: Path, *_: object) -> None:
        original(temporary, b"ha")
        raise error("stopped")

    monkeypatch.setattr(Path, method, fail)
    with pytest.raises(error, match="stopped"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        make_writable(folder, name="workdir")
        assert names(folder) == []


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_way_is_told_by_the_argument(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    expected = rf"argument `directory`. Expected a directory.*Received: '.*{place}'"
    with pytest.raises(OSError, match=expected):
        make_writable(tmp_path / place, name="directory")


def test_settings_are_kept_and_the_same_go_on(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    settings = {"seed": np.int64(3), "rates": (0.05, 0.005), "name": None}
    keep_settings(path, settings, resume=False)
    keep_settings(path, {"seed": 3, "rates": [0.05, 0.005], "name": None}, resume=True)
    with pytest.raises(FileExistsError, match="--resume"):
        keep_settings(path, settings, resume=False)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    keep_settings(path, {"seed": 3, "eps": 0.1, "old": 1}, resume=False)
    with pytest.raises(ValueError, match="other settings: new, old, seed differ"):
        keep_settings(path, {"seed": 4, "eps": 0.1, "new": 1}, resume=True)
    assert json.loads(path.read_text())["seed"] == 3


@pytest.mark.parametrize("content", [b"", b"[1]"])
def test_damaged_settings_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"settings\.json are damaged"):
        keep_settings(path, {"seed": 3}, resume=True)
