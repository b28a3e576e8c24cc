"""What all tests share: quiet TensorFlow, and the data that some of them need."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_BESIDE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def archives() -> Path:
    """The folder of real `.npz` archives; skips where there is none."""
    places = [os.environ.get("KERAS_TRAPS_DATA"), _BESIDE]
    for place in places:
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("no data: set KERAS_TRAPS_DATA to a folder of .npz archives")


@pytest.fixture(scope="session")
def deepsec_weights(archives: Path) -> Path:
    """The folder of DEEPSEC state dicts beside the data; skips where there is none."""
    folder = archives.parent / "models"
    if not folder.is_dir():
        pytest.skip("no DEEPSEC weights: expected a folder `models` beside the data")
    return folder
