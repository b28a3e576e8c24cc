import functools
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import Batch
from keras_traps.attacks.gradient import DIM, _show_variants, gaussian_kernel, smooth
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


def transcribed_kernel(kernlen: int, nsig: float) -> np.ndarray:
    """The two-dimensional kernel of Dong et al."""
    line = np.linspace(-nsig, nsig, kernlen)
    density = np.exp(-(line**2) / 2) / np.sqrt(2 * np.pi)
    raw = np.outer(density, density)
    return raw / raw.sum()


@pytest.mark.parametrize(("kernlen", "nsig"), [(1, 1), (5, 3), (10, 3), (15, 3)])
def test_two_passes_are_the_authors_convolution(kernlen: int, nsig: float) -> None:
    gradients = tf.random.stateless_normal((2, 8, 9, 3), seed=(0, 0))

    smoothed = smooth(gradients, tf.constant(gaussian_kernel(kernlen, nsig)))

    kernel = transcribed_kernel(kernlen, nsig).astype(np.float32)[:, :, None, None]
    filters = np.tile(kernel, (1, 1, 3, 1))
    expected = tf.nn.depthwise_conv2d(gradients, filters, (1, 1, 1, 1), "SAME")
    np.testing.assert_allclose(smoothed, expected, atol=1e-6)


def draws(count: int, side: int = 5, **settings: Any) -> npt.NDArray[np.int32]:
    images, ids = np.zeros((count, side, side, 1), np.float32), np.arange(count)
    batch = Batch(net(), "cross_entropy", images, ids, ids, 0, images)
    return DIM(**{**STEPS, **settings})._draws(batch)


def test_each_variant_is_as_likely_as_it_ought_to_be() -> None:
    drawn = draws(100, prob=0.6, nb_iter=400)

    assert drawn.shape == (100, 400)
    shares = np.bincount(drawn.reshape(-1), minlength=6) / drawn.size
    expected = np.array([0.4, 0.3, 0.075, 0.075, 0.075, 0.075])
    deviation = np.sqrt(expected * (1 - expected) / drawn.size)
    assert (np.abs(shares - expected) < 5 * deviation).all()


def test_an_image_of_which_nothing_would_be_left_is_refused() -> None:
    with pytest.raises(ValueError, match=r"argument `x`.*longer sides.*a side of 2"):
        draws(1, side=2)
    draws(1, side=3)


@pytest.mark.parametrize(
    ("name", "prob", "kernlen"), [("DIM", 0.6, 1), ("DIM-TI", 1.0, 3), ("MIM-TI", 0, 5)]
)
def test_the_steps_follow_the_momentum_of_what_the_model_is_shown(
    name: str, prob: float, kernlen: int
) -> None:
    """Xie et al.'s M-DI-FGSM; with a kernel, Dong et al.'s TI of it."""
    images, classes = pictures(20), np.arange(20) % 3
    own = {"prob": prob} if "DIM" in name else {}
    own |= {"kernlen": kernlen} if "TI" in name else {}

    made = attack(name, net(), images, classes, {**STEPS, **own})

    kernel = tf.constant(gaussian_kernel(kernlen, 3))
    moved, momentum = images, np.zeros_like(images)
    for variants in draws(20, prob=prob).T:
        shown = tf.constant(moved)
        with tf.GradientTape() as tape:
            tape.watch(shown)
            logits = net()(_show_variants(shown, tf.constant(variants)))
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
        gradient = smooth(tape.gradient(loss, shown), kernel).numpy()
        momentum += gradient / np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        moved = np.clip(moved + np.float32(0.02) * np.sign(momentum), 0, 1)
        moved = np.clip(moved, images - np.float32(0.2), images + np.float32(0.2))
    np.testing.assert_allclose(made, moved, atol=1e-5)


@pytest.mark.parametrize(("radius", "eps"), [(0.25, 0.9), (30.0, 0.1)])
def test_l2_momentum_is_that_of_cleverhans_clipped_to_eps(
    radius: float, eps: float
) -> None:
    images = np.random.default_rng(2).random((30, 2, 3, 1), np.float32)
    classes = np.arange(30) % 3
    steps = {"eps_iter": 0.05, "nb_iter": 12}
    mine, theirs = {"eps": eps, "radius": radius}, {"eps": radius, "norm": "L2"}

    result = run("MIML2", tanh_net().model, images, classes, {**steps, **mine})

    expected = attack(
        "cleverhans/MIM", tanh_net().model, images, classes, {**steps, **theirs}
    )
    expected = np.clip(expected, images - eps, images + eps)
    np.testing.assert_allclose(result.images, expected, atol=2e-5)
    # Both balls bind for some.
    assert np.isclose(result.l2, 0.25, atol=1e-5).any() == (radius < 1 and eps > 0.5)
    assert np.isclose(result.linf, eps, atol=1e-6).any() == (eps < 0.5)
