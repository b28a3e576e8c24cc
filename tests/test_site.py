"""The site of the documentation, built as `make docs` builds it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("Makefile", "mkdocs.yml", "docs", "keras_traps", "ops", "recipes")


@pytest.mark.slow
def test_a_link_to_nowhere_fails_the_build_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*BUILT_FROM, *(path.name for path in ROOT.glob("*.md"))):
        path, copy = ROOT / name, tmp_path / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, copy, symlinks=True, ignore=ignored)
        else:
            shutil.copy(path, copy)
    with (tmp_path / "docs/faq.md").open("a", encoding="utf-8") as page:
        page.write("\n[a page](nowhere.md), [a part](glossary.md#nothing)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # The environment is the one that the tests run in: nothing is installed.
    make = ["make", "docs", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/.dev"]
    run = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode
    warnings = [line for line in run.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 2, run.stderr
    assert "nowhere.md" in warnings[0]
    assert "#nothing" in warnings[1]
