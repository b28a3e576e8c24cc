"""Python that pages show in pieces runs with what their readers have by then."""

import dataclasses
import re
import types
from pathlib import Path
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import pytest

from keras_traps import attacks, luring, serving
from keras_traps._checks import FloatArray
from keras_traps.attacks import registry
from keras_traps.datasets import Dataset
from keras_traps.detectors import TRAPDOOR_PRESETS, TrapdoorRecipe
from keras_traps.evaluation.subjects import Defence
from keras_traps.layers import LuringInput

DOCS = Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.slow


def run(
    page: str, names: dict[str, Any], instead: tuple[str, str] = ("", "")
) -> dict[str, Any]:
    """Runs a page's Python from the first block to the last; returns all names."""
    text = (DOCS / page).read_text("utf-8")
    assert instead[0] in text
    text = text.replace(*instead) if instead[0] else text
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", text)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_attacks(
    digits_classifier: keras.Model,
    digits_defence: Defence,
    digits_test: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_ATTACKS", dict(registry._ATTACKS))
    names = run(
        "reference/attacks.md",
        {
            "model": digits_classifier,
            "trapped": digits_defence.trapped,
            "substitute": digits_classifier,
            "images": digits_test.images[:50],
            "labels": digits_test.labels[:50],
            "dataclasses": dataclasses,
            "ClassVar": ClassVar,
            "Literal": Literal,
        },
    )
    assert names["result"].success.mean() > 0.9
    assert names["around"].success.any()
    grey = attacks.create("Grey")(digits_classifier, names["images"], names["labels"])
    np.testing.assert_allclose(grey.images, 0.5 * names["images"] + 0.25)


def enlarged(digits: Dataset) -> FloatArray:
    """Returns digits in the size of MNIST's."""
    margin = ((0, 0), (2, 2), (2, 2), (0, 0))
    return np.pad(digits.images.repeat(3, axis=1).repeat(3, axis=2), margin)


def small_classifier() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(8, 5, strides=3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def test_detectors(
    digits_train: Dataset, digits_test: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MNIST has a hundred times as many images, in which fainter trapdoors take hold.
    recipe = TrapdoorRecipe(
        clean_epochs=2, epochs=8, least_accuracy=0.8, learning_rate=3e-3, mask_ratio=0.5
    )
    monkeypatch.setitem(TRAPDOOR_PRESETS, "mnist", recipe)
    keras.utils.set_random_seed(0)
    images, labels = enlarged(digits_train)[:600], digits_train.labels[:600]
    classifier = small_classifier()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(3e-3), loss)
    classifier.fit(images, labels, epochs=10, verbose=0)
    fgsm = attacks.create("FGSM", eps=0.2)
    attacked = fgsm(classifier, images, labels, output="logits")
    clean = enlarged(digits_test)
    names = run(
        "reference/detectors.md",
        {
            "keras": keras,
            "classifier": classifier,
            "untrained": small_classifier(),
            "train": types.SimpleNamespace(images=images, labels=labels),
            "attacked": attacked.images,
            "held_out": clean[::2],
            "suspects": clean[1::2],
        },
    )
    for name in ("squeezing", "trapdoor", "taboo"):
        flagged = names[name].detect(names["suspects"]).is_adversarial
        assert 0 < flagged.mean() < 0.15
    assert Path("trapdoored.keras").is_file()


@pytest.mark.usefixtures("quick_self_test")
def test_serving(digits_defence: Defence) -> None:
    serving.export_portable(digits_defence.trapped, "mnist.xml")
    shape = digits_defence.trapped.input_shape[1:]
    run(
        "guides/serving.md",
        {
            "trapped": digits_defence.trapped,
            "analyzer": digits_defence.main_analyzer,
            "names": [f"digit {number}" for number in range(10)],
            "m": digits_defence.classifier,
            "p": keras.Sequential([keras.Input(shape), keras.layers.ReLU(1.0)]),
            "openvino": pytest.importorskip("openvino"),
        },
    )
    assert Path("saved_models/mnist_attractors/1/saved_model.pb").is_file()
    assert Path("saved_models/lured/1/saved_model.pb").is_file()


@pytest.mark.usefixtures("quick_self_test")
def test_serving_client(digits_defence: Defence, digits_test: Dataset) -> None:
    pytest.importorskip("tensorflow_serving.apis")
    from tests.serving import reference_server

    exported = serving.export(
        digits_defence.trapped, "models/digits", analyzer=digits_defence.main_analyzer
    )
    with reference_server.serving("mnist_attractors", exported.path.parent) as servers:
        names = run(
            "guides/serving_client.md",
            {"images": digits_test.images[:5]},
            ("http://localhost:8501", servers[1]),
        )
    assert names["verdict"]["is_adversarial"].shape == (5,)


@pytest.mark.usefixtures("quick_self_test")
def test_luring() -> None:
    rng = np.random.default_rng(0)
    target = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    images = rng.integers(0, 256, (128, 12, 12, 1)).astype(np.float32)
    names = run("guides/luring.md", {"target": target, "images": images})
    assert isinstance(names["lured"], luring.LuredClassifier)
    assert isinstance(names["lure"], LuringInput)
    assert Path("saved_models/lured/1/saved_model.pb").is_file()


def test_attractors(digits_defence: Defence, digits_test: Dataset) -> None:
    names = run(
        "explanations/attractors.md",
        {
            "trapped": digits_defence.trapped,
            "images": digits_test.images[:20],
            "labels": digits_test.labels[:20],
        },
    )
    assert names["feasible"].shape == (20, 1)
