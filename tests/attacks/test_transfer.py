import functools

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import Batch
from keras_traps.attacks.transfer import (
    _VARIANTS,
    _draw_variants,
    _gaussian_kernel,
    _selections,
    _show_variants,
    _smooth,
)
from tests.attacks.calling import Settings, attack, run
from tests.attacks.victims import tanh_net

SIDE = 6


STEPS: Settings = {"eps": 0.2, "eps_iter": 0.02, "nb_iter": 6}


@functools.cache
def net() -> keras.Model:
    image = keras.Input((SIDE, SIDE, 2))
    hidden = keras.layers.Dense(8, "tanh")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(3)(hidden))
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(0, 1, w.shape) for w in model.get_weights()])
    return model


def pictures(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).random((count, SIDE, SIDE, 2), np.float32)


Pixels = npt.NDArray[np.float64]


def slopes(images: Pixels, classes: npt.NDArray[np.int64]) -> Pixels:
    """Returns the gradient of the cross-entropy of `classes` in `net`."""
    first, shift, second, bias = (w.astype(np.float64) for w in net().get_weights())
    hidden = np.tanh(images.reshape(len(images), -1) @ first + shift)
    exponentials = np.exp(hidden @ second + bias)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    error = (probabilities - np.eye(3)[classes]) @ second.T * (1 - hidden**2)
    return (error @ first.T).reshape(images.shape)


def a_batch(images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Batch:
    return Batch(
        model=net(),
        loss="cross_entropy",
        images=images,
        labels=labels,
        ids=np.arange(len(images)),
        seed=0,
        background=images,
    )


def transcribed_diversity(
    images: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    settings: Settings,
    kernel: npt.NDArray[np.float32],
) -> Pixels:
    """Xie et al.'s M-DI-FGSM; with a kernel, Dong et al.'s TI of it."""
    batch = a_batch(images, classes)
    variants = _draw_variants(batch, settings.get("prob", 0.0), settings["nb_iter"])
    # A resize and a pad, as two matrices for each example and step.
    down, across = (
        _selections(SIDE, [(row[0], row[axis]) for row in _VARIANTS])[variants]
        for axis in (1, 2)
    )
    clean = images.astype(np.float64)
    moved, momentum = clean.copy(), np.zeros(clean.shape)
    for step in range(settings["nb_iter"]):
        rows, columns = down[:, step], across[:, step]
        shown = np.einsum("nih,nhwc,njw->nijc", rows, moved, columns)
        gradient = slopes(shown, classes)
        # From each place where a pixel was shown to the pixel itself.
        gradient = np.einsum("nih,nijc,njw->nhwc", rows, gradient, columns)
        for axis in (1, 2):
            gradient = np.apply_along_axis(np.convolve, axis, gradient, kernel, "same")
        momentum += gradient / np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        moved = moved + settings["eps_iter"] * np.sign(momentum)
        moved = np.clip(moved, clean - settings["eps"], clean + settings["eps"])
        moved = np.clip(moved, 0, 1)
    return moved


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("DIM", {"prob": 0.6}),
        ("DIM-TI", {"prob": 1.0, "kernlen": 3}),
        ("MIM-TI", {"kernlen": 5}),
    ],
)
def test_what_the_model_is_shown_is_what_the_authors_wrote(
    name: str, more: Settings
) -> None:
    images, classes = pictures(20), np.arange(20) % 3
    settings: Settings = {**STEPS, **more}

    moved = attack(name, net(), images, classes, settings)

    kernel = _gaussian_kernel(settings.get("kernlen", 1), 3)
    expected = transcribed_diversity(images, classes, settings, kernel)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def transcribed_l2_momentum(
    images: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], settings: Settings
) -> npt.NDArray[np.float64]:
    """Dong et al., algorithm 1 in L2, as cleverhans 3 writes it."""
    model = tanh_net()
    clean = images.astype(np.float64)
    moved, momentum = clean.copy(), np.zeros(clean.shape)

    def length(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.sqrt((values**2).sum(axis=(1, 2, 3), keepdims=True))

    for _ in range(settings["nb_iter"]):
        gradient = model.gradient(moved, classes)
        momentum += gradient / np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        moved = moved + settings["eps_iter"] * momentum / length(momentum)
        way = moved - clean
        moved = clean + way * np.minimum(1, settings["radius"] / length(way))
        moved = np.clip(moved, 0, 1)
    return np.clip(moved, clean - settings["eps"], clean + settings["eps"])


@pytest.mark.parametrize(("radius", "eps"), [(0.25, 0.9), (30.0, 0.1)])
def test_l2_momentum_is_what_its_authors_wrote(radius: float, eps: float) -> None:
    images = np.random.default_rng(2).random((30, 2, 3, 1), np.float32)
    classes = np.arange(30) % 3
    settings = {"eps": eps, "radius": radius, "eps_iter": 0.05, "nb_iter": 12}

    result = run("MIML2", tanh_net().model, images, classes, settings)

    expected = transcribed_l2_momentum(images, classes, settings)
    np.testing.assert_allclose(result.images, expected, atol=2e-5)
    # Both balls bind for some.
    assert np.isclose(result.l2, 0.25, atol=1e-5).any() == (radius < 1 and eps > 0.5)
    assert np.isclose(result.linf, eps, atol=1e-6).any() == (eps < 0.5)


def grey(count: int, side: int = 5) -> Batch:
    return a_batch(np.zeros((count, side, side, 1), np.float32), np.zeros(count, int))


@pytest.mark.parametrize("side", [3, 28])
@pytest.mark.parametrize(
    ("variant", "smaller", "top", "left"),
    [(1, 1, 0, 0), (2, 2, 0, 0), (3, 2, 0, 1), (4, 2, 1, 0), (5, 2, 1, 1)],
)
def test_a_variant_is_tensorflows_resize_and_pad(
    side: int, variant: int, smaller: int, top: int, left: int
) -> None:
    images = tf.random.stateless_uniform((2, side, side + 3, 3), seed=(0, side))
    size = (side - smaller, side + 3 - smaller)

    shown = _show_variants(images, tf.constant([variant, 0]))

    resized = tf.raw_ops.ResizeNearestNeighbor(
        images=images[:1], size=size, align_corners=False, half_pixel_centers=False
    )
    padding = [(0, 0), (top, smaller - top), (left, smaller - left), (0, 0)]
    np.testing.assert_array_equal(shown[:1], np.pad(resized, padding))
    np.testing.assert_array_equal(shown[1], images[1])


def test_each_variant_is_as_likely_as_it_ought_to_be() -> None:
    drawn = _draw_variants(grey(100), prob=0.6, steps=400)

    assert drawn.shape == (100, 400)
    shares = np.bincount(drawn.reshape(-1), minlength=6) / drawn.size
    expected = np.array([0.4, 0.3, 0.075, 0.075, 0.075, 0.075])
    deviation = np.sqrt(expected * (1 - expected) / drawn.size)
    assert (np.abs(shares - expected) < 5 * deviation).all()


def test_an_image_of_which_nothing_would_be_left_is_refused() -> None:
    with pytest.raises(ValueError, match=r"argument `x`.*longer sides.*a side of 2"):
        _draw_variants(grey(1, side=2), 0.5, 1)
    _draw_variants(grey(1, side=3), 0.5, 1)


def transcribed_kernel(kernlen: int, nsig: float) -> np.ndarray:
    """The two-dimensional kernel of Dong et al."""
    line = np.linspace(-nsig, nsig, kernlen)
    density = np.exp(-(line**2) / 2) / np.sqrt(2 * np.pi)
    raw = np.outer(density, density)
    return raw / raw.sum()


@pytest.mark.parametrize(("kernlen", "nsig"), [(1, 1), (5, 3), (10, 3), (15, 3)])
def test_two_passes_are_the_authors_convolution(kernlen: int, nsig: float) -> None:
    gradients = tf.random.stateless_normal((2, 8, 9, 3), seed=(0, 0))

    smoothed = _smooth(gradients, tf.constant(_gaussian_kernel(kernlen, nsig)))

    kernel = transcribed_kernel(kernlen, nsig).astype(np.float32)[:, :, None, None]
    filters = np.tile(kernel, (1, 1, 3, 1))
    expected = tf.nn.depthwise_conv2d(gradients, filters, (1, 1, 1, 1), "SAME")
    np.testing.assert_allclose(smoothed, expected, atol=1e-6)
