import shutil
from pathlib import Path

import pytest

from tests.recipes.luring_runs import VARIANTS, run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trained models, never attacked; copied by those who attack."""
    workdir = tmp_path_factory.mktemp("models")
    whole = [f"--variant={name}" for name in ("target", "surrogate")]
    run("train", f"--workdir={workdir}", "--steps=60", *whole)
    variants = [f"--variant={name}" for name in VARIANTS]
    run("train", f"--workdir={workdir}", "--steps=100", "--width=0.05", *variants)
    return workdir


@pytest.fixture
def workdir(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models, tmp_path / "run"))
