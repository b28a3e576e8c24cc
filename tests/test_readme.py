"""The example of the README, run as it is pasted."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


# Random numbers of another processor may move a share by an image or two.
def shares(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"(\d+)%", text)]


@pytest.mark.slow
def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = README.read_text("utf-8")
    example = re.findall(r"(?ms)^```python\n(.*?)^```$", text)[0]
    (printed,) = re.findall(r"(?ms)^```text\n(.*?)^```$", text)
    exec(compile(example, "README.md", "exec"), {})
    assert shares(capsys.readouterr().out) == pytest.approx(shares(printed), abs=3)
