"""What every layer must do, whatever it computes."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

Inputs = list[npt.NDArray[np.float32]]

quick_and_slow = pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)]
)
"""Of a test that calls `check_layer`."""


def check_layer(
    make: Callable[..., Any],
    inputs: Inputs,
    folder: Path,
    whole: bool,
    *,
    sloped: bool = True,
) -> None:
    """Runs a layer through all that Keras does with one.

    Args:
        make: Makes the layer, with settings that are not the defaults; takes the
            keyword arguments of `keras.layers.Layer`.
        inputs: The tensors of one call, float32, batch first.
        folder: An empty one, for files.
        whole: Whether for the policies that take long, and for a compiled step.
        sloped: Whether it has a gradient, without which there is no such step.
    """
    if whole:
        _check_policy(make, inputs, "float32")
        _check_policy(make, inputs, "mixed_bfloat16")
        if sloped:
            _check_fit(make, inputs)
        return
    _check_config(make, inputs)
    _check_calls(make, inputs)
    _check_policy(make, inputs, "mixed_float16")
    _check_saving(make, inputs, folder)


def _check_config(make: Callable[..., Any], inputs: Inputs) -> None:
    layer = make(name="tested", dtype="mixed_bfloat16")
    copy = type(layer).from_config(layer.get_config())
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    read = keras.saving.deserialize_keras_object(json.loads(text))
    assert text == json.dumps(keras.saving.serialize_keras_object(read))
    for other in (copy, read):
        assert type(other) is type(layer)
        assert other.get_config() == layer.get_config()
        assert vars(other).keys() == vars(layer).keys()
        assert _settings(other) == _settings(layer)
        assert (other.name, other.dtype_policy.name) == ("tested", "mixed_bfloat16")
    expected = layer(_packed(inputs))
    for other in (copy, read):
        # What is drawn is not in a config.
        other(_packed(inputs))
        other.set_weights(layer.get_weights())
        np.testing.assert_array_equal(other(_packed(inputs)), expected)
        assert vars(other).keys() == vars(layer).keys()


def _check_calls(make: Callable[..., Any], inputs: Inputs) -> None:
    layer = make()
    assert not layer.built
    layer.build(_packed([(None, *array.shape[1:]) for array in inputs]))
    weights = _values(layer.weights)

    eager = layer(_packed(inputs))
    assert layer.built
    for weight, old in zip(_values(layer.weights), weights, strict=True):
        np.testing.assert_array_equal(weight, old)
    symbols = [keras.Input(array.shape[1:]) for array in inputs]
    symbol = layer(_packed(symbols))
    assert symbol.shape == (None, *eager.shape[1:])
    assert symbol.dtype == eager.dtype.name

    function = tf.function(layer)
    np.testing.assert_allclose(function(_packed(inputs)), eager, rtol=1e-5, atol=1e-6)
    empty = layer(_packed([array[:0] for array in inputs]))
    assert empty.shape == (0, *eager.shape[1:])


def _check_policy(make: Callable[..., Any], inputs: Inputs, policy: str) -> None:
    expected = make()(_packed(inputs))
    with _global_policy(policy):
        layer = make()
        assert layer.dtype_policy.name == policy
        result = layer(_packed(inputs))
        symbol = layer(_packed([keras.Input(array.shape[1:]) for array in inputs]))
    assert result.dtype == symbol.dtype == "float32"
    assert all(weight.dtype != "float16" for weight in layer.weights)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)

    # What a layer before it rounded to half precision is not rounded again.
    halves = [tf.cast(array, layer.compute_dtype) for array in inputs]
    result = layer(_packed(halves))
    assert result.dtype == "float32"
    wide = [tf.cast(half, tf.float32) for half in halves]
    np.testing.assert_allclose(result, make()(_packed(wide)), rtol=1e-6, atol=1e-6)


def _check_fit(make: Callable[..., Any], inputs: Inputs) -> None:
    model = _outer_model(make, inputs)
    layer = model.get_layer("tested")
    before = _values(model.trainable_variables)
    frozen = _values(layer.non_trainable_variables)
    model.compile("sgd", "mse", jit_compile=True)
    target = np.random.default_rng(0).normal(size=model(inputs).shape)
    loss = model.fit(inputs, target, epochs=1, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    after = _values(model.trainable_variables)
    assert all(np.isfinite(weight).all() for weight in after)
    assert any((a != b).any() for a, b in zip(after, before, strict=True))
    for weight, old in zip(_values(layer.non_trainable_variables), frozen, strict=True):
        np.testing.assert_array_equal(weight, old)


def _check_saving(make: Callable[..., Any], inputs: Inputs, folder: Path) -> None:
    model = _outer_model(make, inputs)
    path = folder / "outer.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded.get_layer("tested")) is type(model.get_layer("tested"))
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


def _values(variables: list[Any]) -> list[npt.NDArray[Any]]:
    # Copied: NumPy may look into the memory that a training step writes to.
    return [np.copy(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _settings(layer: Any) -> dict[str, Any]:
    """The public attributes that are plain values: what the constructor was given."""
    return {
        name: value
        for name, value in vars(layer).items()
        if not name.startswith("_") and isinstance(value, (str, int, float, tuple))
    }


def _outer_model(make: Callable[..., Any], inputs: Inputs) -> keras.Model:
    """A model with something to train before the layer."""
    symbols = [keras.Input(array.shape[1:]) for array in inputs]
    scaled = [
        keras.layers.Dense(symbol.shape[-1], kernel_initializer="identity")(symbol)
        for symbol in symbols
    ]
    return keras.Model(symbols, make(name="tested")(_packed(scaled)))


def _packed(values: list[Any]) -> Any:
    """The way Keras passes tensors: a single one is not in a list."""
    return values[0] if len(values) == 1 else values


@contextmanager
def _global_policy(policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
