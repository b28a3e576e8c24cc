"""DEEPSEC's reference is the PyTorch model, computed in NumPy from the state dict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.datasets import load
from keras_traps.models import (
    cifar10_resnet20,
    cifar10_vgg,
    digits_cnn,
    load_deepsec_weights,
    madry_mnist_cnn,
    mnist_cnn,
    svhn_vgg,
    train,
)
from keras_traps.models.architectures import VICTIM_RECIPES, VictimRecipe

Array = npt.NDArray[np.float64]
State = dict[str, Array]


def conv(x: Array, state: State, name: str, *, pad: int = 0, stride: int = 1) -> Array:
    """Images (N, C, H, W) and kernels (O, I, H, W), padded alike on all sides."""
    kernel = state[f"{name}.weight"]
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    y = np.tensordot(windows, kernel, ([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
    bias = state.get(f"{name}.bias")
    return y if bias is None else y + bias[:, None, None]


def norm(x: Array, state: State, name: str) -> Array:
    weight, bias, mean, variance = (
        state[f"{name}.{part}"][:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def pool(x: Array) -> Array:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def dense(x: Array, state: State, name: str) -> Array:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def below_maximum(logits: Array) -> Array:
    return logits - logits.max(axis=1, keepdims=True)


def mnist_reference(x: Array, state: State) -> Array:
    for filters in (32, 64):
        for index in (0, 2):
            x = relu(conv(x, state, f"conv{filters}.{index}"))
        x = pool(x)
    x = x.reshape(len(x), -1)
    x = relu(dense(x, state, "fc1"))
    x = relu(dense(x, state, "fc2"))
    return below_maximum(dense(x, state, "fc3"))


def cifar10_reference(x: Array, state: State) -> Array:
    x = relu(norm(conv(x, state, "conv1", pad=1), state, "bn1"))
    for stage in (1, 2, 3):
        for block in range(3):
            name = f"layer{stage}.{block}"
            stride = 2 if block == 0 and stage > 1 else 1
            y = conv(x, state, f"{name}.conv1", pad=1, stride=stride)
            y = relu(norm(y, state, f"{name}.bn1"))
            y = norm(conv(y, state, f"{name}.conv2", pad=1), state, f"{name}.bn2")
            if stride == 2:
                x = conv(x, state, f"{name}.downsample.0", stride=2)
                x = norm(x, state, f"{name}.downsample.1")
            x = relu(x + y)
    return below_maximum(dense(x.mean((2, 3)), state, "fc"))


def state_of(model: keras.Model) -> State:
    """A state dict with random weights, in PyTorch's order."""
    state: State = {}
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            state[f"{layer.name}.weight"] = rng.uniform(0.5, 1.5, size)
            state[f"{layer.name}.bias"] = rng.normal(0, 0.1, size)
            state[f"{layer.name}.running_mean"] = rng.normal(0, 0.1, size)
            state[f"{layer.name}.running_var"] = rng.uniform(0.5, 1.5, size)
            state[f"{layer.name}.num_batches_tracked"] = np.array(7)
        elif hasattr(layer, "kernel"):
            *size, into, out = layer.kernel.shape
            shape = (out, into, *size)
            scale = np.prod(shape[1:]) ** -0.5
            state[f"{layer.name}.weight"] = rng.normal(0, scale, shape)
            if layer.use_bias:
                state[f"{layer.name}.bias"] = rng.normal(0, 0.1, out)
    return state


def save(path: Path, state: State) -> Path:
    arrays: dict[str, Any] = {k: v.astype(np.float32) for k, v in state.items()}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (mnist_cnn, 312_202),
        (cifar10_resnet20, 272_586),
        (madry_mnist_cnn, 3_274_538),
        (digits_cnn, 30_634),
        (svhn_vgg, 4_574_400),
        (cifar10_vgg, 10_367_360),
    ],
)
def test_a_model_has_the_size_of_its_source(
    build: Callable[[], keras.Model], parameters: int
) -> None:
    model = build()
    # The authors of luring count what batch normalisation does not train, too.
    weights = model.weights if "vgg" in model.name else model.trainable_weights
    assert sum(int(np.prod(weight.shape)) for weight in weights) == parameters


@pytest.mark.parametrize("build", [madry_mnist_cnn, svhn_vgg, cifar10_vgg])
def test_luring_victims_return_ten_logits_with_a_gradient(
    build: Callable[..., keras.Model],
) -> None:
    model = build(width=1 / 32)
    shape = (2, *model.input_shape[1:])
    images = tf.constant(np.random.default_rng(0).random(shape, np.float32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=False)
    assert logits.shape == (2, 10)
    assert np.abs(tape.gradient(logits, images)).max() > 0
    # Neither a softmax nor a bound.
    assert np.min(logits) < 0
    with pytest.raises(ValueError, match="argument `width`"):
        build(width=0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 2.0), ("batch_size", float("nan")), ("validation_split", 1.0)],
)
def test_a_recipe_that_cannot_be_is_named(name: str, value: Any) -> None:
    settings = {"epochs": 3, "batch_size": 4, "learning_rates": (1e-3,), name: value}
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        VictimRecipe(**settings)
    for recipe in VICTIM_RECIPES.values():
        assert len(recipe.learning_rates) == len(recipe.boundaries) + 1


@pytest.mark.slow
def test_the_digits_are_learned() -> None:
    keras.utils.set_random_seed(0)
    model = digits_cnn()
    train(model, load("digits"), epochs=20, batch_size=32, learning_rate=2e-3)
    test = load("digits", "test")
    results = model.evaluate(test.images, test.labels, verbose=0, return_dict=True)
    assert results["accuracy"] >= 0.975


@pytest.mark.parametrize(
    ("build", "reference"),
    [(mnist_cnn, mnist_reference), (cifar10_resnet20, cifar10_reference)],
)
def test_imported_model_computes_what_pytorch_does(
    tmp_path: Path,
    build: Callable[[], keras.Model],
    reference: Callable[[Array, State], Array],
) -> None:
    model = build()
    state = state_of(model)
    returned = load_deepsec_weights(model, save(tmp_path / "state.npz", state))
    assert returned is model
    images = np.random.default_rng(2).uniform(size=(3, *model.input_shape[1:]))
    expected = reference(images.transpose(0, 3, 1, 2), state)
    actual = np.asarray(model(images.astype(np.float32), training=False))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    assert (actual.max(axis=1) == 0).all()


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return mnist_cnn()


def refuse(model: keras.Model, path: Path, expected: str) -> None:
    before = [weight.copy() for weight in model.get_weights()]
    with pytest.raises(ValueError, match=expected) as caught:
        load_deepsec_weights(model, path)
    assert str(path) in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_state_that_does_not_fit_is_told_and_changes_nothing(
    model: keras.Model, tmp_path: Path
) -> None:
    state = state_of(model)
    # The last that is assigned, so that the others would be written by then.
    wrong = state | {"fc3.bias": np.zeros(11)}
    expected = r"fc3\.bias of shape \(10,\).*\(11,\)"
    refuse(model, save(tmp_path / "shape.npz", wrong), expected)
    more = state | {"fc4.bias": np.zeros(10)}
    refuse(model, save(tmp_path / "more.npz", more), r"fc4\.bias of shape None")
    del state["fc2.bias"]
    refuse(model, save(tmp_path / "less.npz", state), r"fc2\.bias.*Received: None")


def test_a_damaged_or_absent_file_is_named(model: keras.Model, tmp_path: Path) -> None:
    path = save(tmp_path / "state.npz", state_of(model))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    refuse(model, path, "cannot be read")
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        load_deepsec_weights(model, tmp_path / "nothing.npz")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "build", "images", "right"),
    [("mnist", mnist_cnn, 10_000, 9934), ("cifar10", cifar10_resnet20, 1000, 895)],
)
def test_published_weights_reach_their_accuracy(
    archives: Path,
    deepsec_weights: Path,
    name: str,
    build: Callable[[], keras.Model],
    images: int,
    right: int,
) -> None:
    model = load_deepsec_weights(build(), deepsec_weights / f"deepsec_{name}.npz")
    test = load(name, "test", archives)
    assert len(test) == images
    predicted = model.predict(test.images, batch_size=200, verbose=0).argmax(axis=1)
    # One image more or less may lie on a border of float32.
    assert abs(int((predicted == test.labels).sum()) - right) <= 1
