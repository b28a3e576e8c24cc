"""Answers that are not finite, of the live model and of the exported one."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import serving
from keras_traps.attractors import TrapSettings, inject
from keras_traps.serving import selftest


def standardising() -> keras.Model:
    """A classifier that divides by 0 on an image of one colour."""
    images = keras.Input((4, 4, 1))
    mean = keras.ops.mean(images, axis=(1, 2, 3), keepdims=True)
    spread = keras.ops.std(images, axis=(1, 2, 3), keepdims=True)
    flat = keras.layers.Flatten()((images - mean) / spread)
    return keras.Model(images, keras.layers.Dense(3)(flat))


def export(directory: Path) -> serving.Exported:
    return serving.export(
        standardising(),
        directory,
        output="logits",
        warmup_batch_sizes=(),
        verbose=False,
    )


def test_a_model_that_answers_nan_is_refused_and_the_image_named(
    tmp_path: Path,
) -> None:
    expected = (
        r"'probabilities' in the signature 'serving_default' is not finite for 2 of 8 "
        "images, the first of them black"
    )
    with pytest.raises(serving.SelfTestError, match=expected):
        export(tmp_path / "new" / "model")
    assert not (tmp_path / "new" / "model").exists()


def test_a_nan_of_the_exported_model_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finite(*arguments: Any) -> Any:
        answers = live_answers(*arguments)
        answers["probabilities"] = np.nan_to_num(answers["probabilities"])
        return answers

    live_answers = selftest.live_answers
    monkeypatch.setattr(selftest, "live_answers", finite)
    with pytest.raises(serving.SelfTestError, match="difference is inf times"):
        export(tmp_path / "new" / "model")
    assert not (tmp_path / "new" / "model").exists()


@pytest.mark.parametrize(
    ("index", "name"),
    [(0, "noise"), (5, "noise"), (6, "black"), (7, "white"), (8, "examples[0]")],
)
def test_an_image_of_the_self_test_has_a_name(index: int, name: str) -> None:
    assert selftest._image_name(index) == name


def test_what_a_low_temperature_makes_of_rounding_is_tolerated(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    head = model.layers[-1]
    head.kernel.assign(30 * head.kernel)
    settings = TrapSettings(
        output="logits",
        a0=-1e-5,
        a1=-5.0,
        a2=2.0,
        step_weights=(9.6, 1.0),
        temperature=0.002,
    )
    images = np.random.default_rng(0).random((100, 32, 32, 3), np.float32)
    trapped = inject(model, settings)
    done = serving.export(trapped, tmp_path, examples=images, verbose=False)
    assert done.self_test.num_images > 100
    # Nor does it tolerate more where there is none.
    assert selftest._rounding(model) == 1.0
    assert selftest._rounding(trapped) == pytest.approx(500.0)
