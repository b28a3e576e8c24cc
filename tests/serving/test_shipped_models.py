import json
from pathlib import Path

import numpy as np
import pytest

from keras_traps import datasets
from keras_traps.commands.trapping import threshold_images
from tests.serving.conftest import load

_FOLDER = Path(__file__).parents[2] / "saved_models"
_VERSIONS = sorted(path.parent for path in _FOLDER.glob("*/*/saved_model.pb"))


def test_digits_and_mnist_are_shipped() -> None:
    names = {path.parent.name for path in _VERSIONS}
    assert {"digits_attractors", "mnist_attractors"} <= names


@pytest.mark.parametrize("path", _VERSIONS, ids=lambda path: path.parent.name)
def test_a_shipped_model_is_small_and_has_its_card(path: Path) -> None:
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    assert sum(sizes) <= 4e6
    card = (path / "README.md").read_text()
    for part in ("Data and accuracy", "false positive rate", "Limits", "Made by"):
        assert part in card


def test_the_shipped_digits_model_is_as_good_as_its_card_says() -> None:
    path = next(p for p in _VERSIONS if p.parent.name == "digits_attractors")
    train, test = (datasets.load("digits", split) for split in ("train", "test"))
    # The images that set no threshold.
    _, test = threshold_images(train, test, [0.05])
    analyze = load(path)["analyze"]
    answer = analyze(image=test.images)
    assert len(analyze(image=test.images[:0])["score"]) == 0
    told = json.loads((path / "assets.extra" / "defense.json").read_text())
    assert told["data_sha256"] == test.sha256
    found = {
        "accuracy": float(np.mean(answer["class_id"] == test.labels)),
        "false_positive_rate": float(answer["is_adversarial"].mean()),
    }
    for name, value in found.items():
        assert value == pytest.approx(told["metrics"][name], abs=0.005)
