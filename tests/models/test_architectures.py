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


def mnist_state() -> State:
    state: State = {}
    rng = np.random.default_rng(0)
    for name, out, into in (
        ("conv32.0", 32, 1),
        ("conv32.2", 32, 32),
        ("conv64.0", 64, 32),
        ("conv64.2", 64, 64),
    ):
        add(state, rng, name, (out, into, 3, 3))
    for name, out, into in (("fc1", 200, 1024), ("fc2", 200, 200), ("fc3", 10, 200)):
        add(state, rng, name, (out, into))
    return state


def cifar10_state() -> State:
    state: State = {}
    rng = np.random.default_rng(1)
    add(state, rng, "conv1", (16, 3, 3, 3))
    add_norm(state, rng, "bn1", 16)
    channels = 16
    for stage, filters in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            name = f"layer{stage}.{block}"
            add(state, rng, f"{name}.conv1", (filters, channels, 3, 3), bias=False)
            add_norm(state, rng, f"{name}.bn1", filters)
            add(state, rng, f"{name}.conv2", (filters, filters, 3, 3), bias=False)
            add_norm(state, rng, f"{name}.bn2", filters)
            if channels != filters:
                add(state, rng, f"{name}.downsample.0", (filters, channels, 1, 1))
                add_norm(state, rng, f"{name}.downsample.1", filters)
            channels = filters
    add(state, rng, "fc", (10, 64))
    return state


def add(
    state: State,
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    *,
    bias: bool = True,
) -> None:
    state[f"{name}.weight"] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
    if bias:
        state[f"{name}.bias"] = rng.normal(0, 0.1, shape[0])


def add_norm(state: State, rng: np.random.Generator, name: str, size: int) -> None:
    state[f"{name}.weight"] = rng.uniform(0.5, 1.5, size)
    state[f"{name}.bias"] = rng.normal(0, 0.1, size)
    state[f"{name}.running_mean"] = rng.normal(0, 0.1, size)
    state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, size)
    state[f"{name}.num_batches_tracked"] = np.array(7)


def save(path: Path, state: State) -> Path:
    arrays: dict[str, Any] = {k: v.astype(np.float32) for k, v in state.items()}
    np.savez(path, **arrays)
    return path


def weights_of(model: keras.Model) -> list[npt.NDArray[np.float32]]:
    return [weight.copy() for weight in model.get_weights()]


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (mnist_cnn, 312_202),
        (cifar10_resnet20, 272_586),
        (madry_mnist_cnn, 3_274_538),
        (digits_cnn, 30_634),
    ],
)
def test_a_model_has_the_size_of_its_source(
    build: Callable[[], keras.Model], parameters: int
) -> None:
    weights = build().trainable_weights
    assert sum(int(np.prod(weight.shape)) for weight in weights) == parameters


@pytest.mark.parametrize(
    ("build", "parameters"), [(svhn_vgg, 4_574_400), (cifar10_vgg, 10_367_360)]
)
def test_a_vgg_has_the_authors_size(
    build: Callable[[], keras.Model], parameters: int
) -> None:
    assert build().count_params() == parameters


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


def test_a_width_scales_every_hidden_layer_and_not_the_classes() -> None:
    narrow = madry_mnist_cnn(width=0.25)
    assert narrow.get_layer("conv2").filters == 16
    assert narrow.get_layer("dense").units == 256
    assert narrow.output_shape == (None, 10)


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
    ("build", "state", "reference"),
    [
        (mnist_cnn, mnist_state(), mnist_reference),
        (cifar10_resnet20, cifar10_state(), cifar10_reference),
    ],
    ids=["mnist", "cifar10"],
)
def test_imported_model_computes_what_pytorch_does(
    tmp_path: Path,
    build: Callable[[], keras.Model],
    state: State,
    reference: Callable[[Array, State], Array],
) -> None:
    model = build()
    returned = load_deepsec_weights(model, save(tmp_path / "state.npz", state))
    assert returned is model
    images = np.random.default_rng(2).uniform(size=(3, *model.input_shape[1:]))
    expected = reference(images.transpose(0, 3, 1, 2), state)
    actual = np.asarray(model(images.astype(np.float32), training=False))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    assert (actual.max(axis=1) == 0).all()


def test_a_kernel_goes_from_oihw_to_hwio(tmp_path: Path) -> None:
    state = mnist_state()
    model = load_deepsec_weights(mnist_cnn(), save(tmp_path / "state.npz", state))
    kernel = np.asarray(model.get_layer("conv32.2").kernel)
    assert kernel[0, 2, 5, 7] == np.float32(state["conv32.2.weight"][7, 5, 0, 2])


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return mnist_cnn()


def refuse(model: keras.Model, path: Path, expected: str) -> None:
    before = weights_of(model)
    with pytest.raises(ValueError, match=expected) as caught:
        load_deepsec_weights(model, path)
    assert str(path) in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_state_that_does_not_fit_is_told_and_changes_nothing(
    model: keras.Model, tmp_path: Path
) -> None:
    state = mnist_state()
    del state["fc2.bias"]
    refuse(model, save(tmp_path / "less.npz", state), r"fc2\.bias")
    state = mnist_state() | {"fc4.bias": np.zeros(10)}
    refuse(model, save(tmp_path / "more.npz", state), r"fc4\.bias")
    # The last that is assigned, so that the others would be written by then.
    state = mnist_state() | {"fc3.bias": np.zeros(11)}
    expected = r"fc3\.bias of shape \(10,\).*\(11,\)"
    refuse(model, save(tmp_path / "shape.npz", state), expected)


def test_a_damaged_or_absent_file_is_named(model: keras.Model, tmp_path: Path) -> None:
    path = save(tmp_path / "state.npz", mnist_state())
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
