"""The example of the README, run as it is pasted."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[1] / "README.md"


# Random numbers of another processor may move a share by an image or two.
def shares(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"(\d+)%", text)]


@pytest.mark.slow
def test_the_example_prints_what_it_says_and_what_it_made_is_exported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = README.read_text("utf-8")
    example, export = re.findall(r"(?ms)^```python\n(.*?)^```$", text)
    (printed,) = re.findall(r"(?ms)^```text\n(.*?)^```$", text)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert shares(capsys.readouterr().out) == pytest.approx(shares(printed), abs=3)
    exec(compile(export, "README.md", "exec"), names)
    assert Path("saved_models/mine/1/saved_model.pb").is_file()
