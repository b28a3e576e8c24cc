from pathlib import Path

import pytest

from keras_traps import datasets, serving
from keras_traps.serving.card import card, without_seed


@pytest.fixture
def exported() -> serving.Exported:
    tested = serving.SelfTest(live={}, alone={}, num_images=1)
    path = Path("saved_models", "digits", "3")
    return serving.Exported(path, 3, ("serving_default", "analyze"), tested, ())


def test_it_tells_what_was_measured_and_how_it_was_made(
    exported: serving.Exported,
) -> None:
    test = datasets.load("digits", "test")
    argv = ["/home/me/export.py", "--seed=77", "--data_dir=/home/me/data"]
    text = card(
        exported,
        test,
        {"false_positive_rate": 0.0512},
        argv=argv,
        made_by="make saved-models",
        note="Set on 9 images.",
    )
    assert text.startswith("# digits, version 3\n")
    assert "Signatures: `serving_default`, `analyze`." in text
    assert "float32, 8 x 8 x 1" in text
    assert "| false positive rate | 5.12% |" in text
    assert "500 test images.\n" in text
    assert f"\n\nSet on 9 images.\n\nSHA-256 of the test data: `{test.sha256}`" in text
    assert "    make saved-models\n\nwhich runs\n\n    python recipes/export.py" in text
    assert "77" not in text.replace(test.sha256, "")
    assert "/home" not in text


def test_what_was_not_given_leaves_no_gap(exported: serving.Exported) -> None:
    test = datasets.load("digits", "test")
    text = card(exported, test, {"accuracy": 1.0}, argv=["export.py"])
    assert "| accuracy | 100.00% |\n\nSHA-256" in text
    assert "## Made by\n\n    python recipes/export.py\n\non " in text
    assert "\n\n\n" not in text


@pytest.mark.parametrize("seed", [("--seed=77",), ("--seed", "77"), ("-seed=77",)])
def test_the_seed_is_never_told(seed: tuple[str, ...]) -> None:
    words = without_seed(["export.py", *seed, "--fpr=0.1"])
    assert words == ["export.py", "--seed=SECRET", "--fpr=0.1"]
