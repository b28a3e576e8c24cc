"""Guides run as they are pasted, from the first block to the last."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import copies
import numpy as np
import PIL.Image
import pytest

from keras_traps.commands.main import dispatch

GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def blocks(guide: str) -> list[tuple[str, str]]:
    text = (GUIDES / guide).read_text(encoding="utf-8")
    return re.findall(r"(?ms)^```(python|console)\n(.*?)^```$", text)


def draw(kind: str, rng: np.random.Generator) -> PIL.Image.Image:
    """Draws a bright shape somewhere on a dark ground of 40 by 36 pixels."""
    y, x = np.mgrid[:36, :40] - rng.integers(12, 24, 2)[:, None, None]
    inside = {
        "disc": x**2 + y**2 < 81,
        "square": (abs(x) < 9) & (abs(y) < 9),
        "stripes": x % 8 < 4,
    }[kind]
    ground, colour = rng.integers(0, 90, 3), rng.integers(150, 250, 3)
    pixels = np.where(inside[..., None], colour, ground) + rng.normal(0, 5, (36, 40, 3))
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a folder of small images in the working directory."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("test", 40)):
        for kind in ("disc", "square", "stripes"):
            folder = tmp_path / "images" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                draw(kind, rng).save(folder / f"{number:04}.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
# Keras tells so of every data set that is its own.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_own_model(images: None, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    commands = []
    for language, text in blocks("own_model.md"):
        if language == "python":
            exec(compile(text, "own_model.md", "exec"), names)
        else:
            script, *argv = shlex.split(text.replace("\\\n", ""))
            assert script == "keras-traps"
            dispatch(argv)
            commands.append(argv[0])
    assert commands == ["check", "trap", "evaluate", "export"]
    shown = capsys.readouterr().out
    assert "It can be trapped." in shown
    assert names["calibration"].accuracy > 0.9
    assert names["verdict"].is_adversarial.mean() > 0.9
    for path in ("resnet.keras", "traps/analyzer.json", "runs/own/report/report.html"):
        assert Path(path).is_file()
    assert b"stripes" in Path("served/own/1/saved_model.pb").read_bytes()


@pytest.mark.slow
def test_evaluating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for _, text in blocks("evaluating.md"):
        exec(compile(text, "evaluating.md", "exec"), names)
    assert [row["contender"] for row in names["found"].rows] == [
        "undefended",
        "small_lead",
    ]
    assert Path("runs/board/leaderboard.html").is_file()


@pytest.mark.slow
def test_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("saved_models").symlink_to(GUIDES.parents[1] / "saved_models")
    names: dict[str, Any] = {}
    for language, text in blocks("copies.md"):
        if language == "python":
            exec(compile(text, "copies.md", "exec"), names)
        else:
            python, script, *argv = shlex.split(text.replace("\\\n", ""))
            assert (python, script) == ("python", "recipes/copies.py")
            copies.main(argv)
    assert names["together"].copies[names["together"].likeliest[0]].name == "alice"
    found = json.loads(Path("runs/traced/trace.json").read_text())
    assert found["rows"][-1]["named"] == ["alice, version 1"]
    assert "The likeliest copy: alice, version 1" in capsys.readouterr().out
