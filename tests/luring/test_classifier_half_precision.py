"""Training in half precision: when the loss is scaled, and that it stays so."""

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps.layers import LuringInput
from keras_traps.luring import LuredClassifier
from keras_traps.models.inference import predict
from tests.luring.conftest import CLASSES, SHAPE, lured, tiny_lure, tiny_target


def test_a_network_in_half_precision_has_its_loss_scaled_unless_told_otherwise() -> (
    None
):
    network = keras.models.clone_model(tiny_lure())
    network.dtype_policy = keras.DTypePolicy("mixed_float16")
    scaling = keras.optimizers.LossScaleOptimizer
    model = lured(network)
    assert isinstance(model.optimizer, scaling)
    model.compile(scaling(keras.optimizers.Adam(0.01), initial_scale=2.0))
    assert not isinstance(model.optimizer.inner_optimizer, scaling)
    model.compile("adam", auto_scale_loss=False)
    assert not isinstance(model.optimizer, scaling)


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [True, False])
def test_whether_the_loss_is_scaled_survives_a_file(
    images: np.ndarray, tmp_path: Path, scaled: bool
) -> None:
    network = keras.models.clone_model(tiny_lure())
    network.dtype_policy = keras.DTypePolicy("mixed_float16")
    model = lured(network, auto_scale_loss=scaled)
    model.fit(images, batch_size=20, verbose=0)
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    assert int(loaded.optimizer.iterations) == 2
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


@pytest.mark.slow
def test_half_precision_survives_a_file_with_its_scale(
    images: np.ndarray, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    lure = LuringInput("cifar10", width=1 / 64, dropout=0.0, dtype="mixed_float16")
    model = LuredClassifier(tiny_target(), lure, output="logits")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=64.0
    )
    model.compile(optimizer)
    model.fit(images, batch_size=20, verbose=0)
    model.save(tmp_path / "lured.keras")
    loaded = keras.saving.load_model(tmp_path / "lured.keras")
    assert loaded.lure.dtype_policy.name == "mixed_float16"
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(loaded.optimizer.iterations) == 2
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))
    for one in (loaded, model):
        one.fit(images, batch_size=20, shuffle=False, verbose=0)
    for a, b in zip(loaded.lure.weights, model.lure.weights, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), atol=2e-3)


def half_target(top: float) -> keras.Model:
    """A classifier in half precision, whose first class leads by `top` everywhere."""
    policy = keras.DTypePolicy("mixed_float16")
    dense = keras.layers.Dense(CLASSES, dtype=policy)
    flat = keras.layers.Flatten(dtype=policy)
    model = keras.Sequential([keras.Input(SHAPE), flat, dense])
    dense.bias.assign([top, *[0.0] * (CLASSES - 1)])
    model.trainable = False
    return model


def test_a_classifier_in_half_precision_has_the_loss_scaled() -> None:
    model = LuredClassifier(half_target(8.0), tiny_lure(), output="logits")
    model.compile("adam", "cross_entropy")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    half = keras.DTypePolicy("mixed_float16")
    layers = [keras.layers.Conv2D(1, 3, padding="same", dtype=half)]
    inner = keras.Sequential([keras.Input(SHAPE), *layers])
    assert isinstance(lured(inner).optimizer, keras.optimizers.LossScaleOptimizer)
    whole = lured().optimizer
    assert not isinstance(whole, keras.optimizers.LossScaleOptimizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [{"dtype": "float64"}, {"dtype": "mixed_float16"}], ids=lambda k: k["dtype"]
)
def test_regularizers_of_any_precision_count(
    kind: dict[str, str], images: np.ndarray
) -> None:
    lure = keras.layers.Conv2D(
        1,
        3,
        padding="same",
        kernel_regularizer="l2",
        activity_regularizer="l2",
        **kind,
    )
    history = lured(lure).fit(images, verbose=0).history
    assert np.isfinite(history["loss"]).all()
