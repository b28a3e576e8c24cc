import shutil
from pathlib import Path

import luring
import pytest


@pytest.fixture(scope="session")
def lured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trained models, never attacked; copied by those who attack."""
    workdir = tmp_path_factory.mktemp("lured")
    train = ("train", f"--workdir={workdir}")
    luring.main([*train, "--steps=60", "--variant=target,surrogate"])
    luring.main([*train, "--steps=10", "--width=0.05", "--variant=auto,luring"])
    return workdir


@pytest.fixture
def workdir(lured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lured, tmp_path / "run"))
