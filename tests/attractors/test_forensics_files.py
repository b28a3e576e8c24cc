import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps.attractors import ForensicAnalyzer
from keras_traps.datasets import Dataset
from tests.attractors.cases import clean, decoder


def test_a_file_gives_the_same_verdicts(
    fitted: ForensicAnalyzer, tmp_path: Path
) -> None:
    path = tmp_path / "analyzer.json"
    path.write_text("an older one")
    fitted.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["analyzer.json"]
    loaded = ForensicAnalyzer.load(str(path), decoder())
    assert loaded.thresholds == fitted.thresholds
    images = clean(100, seed=4)
    mine, its = fitted.detect(images), loaded.detect(images)
    for field in dataclasses.fields(mine):
        np.testing.assert_array_equal(
            getattr(mine, field.name), getattr(its, field.name)
        )


def test_a_loaded_model_still_takes_its_images_and_no_others(
    trapped: keras.Model, digits_test: Dataset, tmp_path: Path
) -> None:
    images = digits_test.images[:5]
    expected = ForensicAnalyzer(trapped).correlations(images)
    trapped.save(tmp_path / "model.keras")
    loaded = ForensicAnalyzer(keras.saving.load_model(tmp_path / "model.keras"))
    np.testing.assert_array_equal(loaded.correlations(images), expected)
    with pytest.raises(ValueError, match=r"images of shape \(batch, 8, 8, 1\)"):
        loaded.correlations(np.moveaxis(images, -1, 1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace("analyzer.v1", "analyzer.v2"),
        lambda text: text.replace('"format"', '"form"'),
        lambda text: text.replace('"decoder"', '"coder"'),
        lambda text: text.replace('"decoder": "', '"decoder": 1, "x": "'),
        lambda text: text.replace('"decoder": "', '"decoder": null, "x": "'),
        lambda text: text.replace('"upper"', '"uper"'),
        lambda text: text.replace('"scale"', '"scales"'),
        lambda text: text.replace('"fpr"', '"extra": 1, "fpr"'),
    ],
)
def test_a_damaged_file_is_named(
    fitted: ForensicAnalyzer, tmp_path: Path, damage: Any
) -> None:
    path = tmp_path / "analyzer.json"
    fitted.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"analyzer\.json is not a saved analyzer"):
        ForensicAnalyzer.load(path, decoder())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upper", None),
        ("upper", "high"),
        ("upper", math.nan),
        ("lower", -math.inf),
        ("lower", True),
        ("deviation", [0.1]),
        ("score", "1"),
        ("fpr", 1.0),
        ("num_images", 0),
        ("num_images", 400.5),
        ("centre", None),
        ("centre", [0.1, 0.2]),
        ("centre", [0.1, 0.2, None]),
        ("centre", "abc"),
        ("scale", [0.1, 0.2, 0.3, 0.4]),
        ("scale", [0.1, 0.2, math.nan]),
        ("scale", [0.1, 0.2, 0.0]),
    ],
)
def test_a_file_whose_thresholds_are_no_finite_numbers_is_damaged(
    fitted: ForensicAnalyzer, tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "analyzer.json"
    fitted.save(path)
    content = json.loads(path.read_text())
    content["thresholds"][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"analyzer\.json is not a saved analyzer"):
        ForensicAnalyzer.load(path, decoder())


def test_a_rate_of_another_kind_of_number_can_be_saved(tmp_path: Path) -> None:
    fpr: Any = np.float32(0.05)
    analyzer = ForensicAnalyzer(decoder()).fit(clean(40), fpr=fpr)
    analyzer.save(tmp_path / "analyzer.json")
    loaded = ForensicAnalyzer.load(tmp_path / "analyzer.json", decoder())
    assert loaded.thresholds == analyzer.thresholds
    assert loaded.thresholds.fpr == pytest.approx(0.05)


def test_a_file_is_readable_json(fitted: ForensicAnalyzer, tmp_path: Path) -> None:
    fitted.save(tmp_path / "analyzer.json")
    content = json.loads((tmp_path / "analyzer.json").read_text())
    assert content["decoder"] == decoder().fingerprint
    assert content["thresholds"]["upper"] == fitted.thresholds.upper


def test_a_missing_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ForensicAnalyzer.load(tmp_path / "none.json", decoder())


def test_a_file_of_another_decoder_is_refused(
    fitted: ForensicAnalyzer, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "analyzer.json")
    with pytest.raises(ValueError, match=decoder(2).fingerprint[:12]):
        ForensicAnalyzer.load(tmp_path / "analyzer.json", decoder(2))
