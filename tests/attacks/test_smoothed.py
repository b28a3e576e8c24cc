import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks.gradient import gaussian_kernel, smooth
from tests.attacks.calling import attack, run
from tests.attacks.victims import PIXELS, SHAPE, linear, some_images, tanh_net

# Two classes apart by a slope that is known at every pixel.
SLOPE = np.array([1.0, -0.5, 0.2, 0.3, -2.0, -0.1], np.float32)
KERNEL = np.stack([0 * SLOPE, SLOPE], axis=1)
TWICE = {"eps": 0.2, "eps_iter": 0.2, "nb_iter": 2}


def test_a_convolved_gradient_leads_to_its_own_corner() -> None:
    images = some_images(3)
    moved = attack("TI-PGD", linear(KERNEL), images, [0, 0, 0], {**TWICE, "nsig": 1.0})
    gradient = tf.reshape(SLOPE, (1, *SHAPE))
    way = np.sign(smooth(gradient, tf.constant(gaussian_kernel(5, 1.0))))
    # The neighbour of the fourth pixel outweighs it.
    assert (way != np.sign(gradient)).any()
    np.testing.assert_allclose(moved, images + 0.2 * way, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "more"),
    [("TI-PGD", {"kernlen": 1}), ("EOT-PGD", {"sigma": 1e-7, "eot_iter": 1})],
)
def test_without_smoothing_it_is_pgd(name: str, more: dict[str, float]) -> None:
    images, classes = some_images(8), np.arange(8) % 3
    steps = {"eps": 0.2, "eps_iter": 0.03, "nb_iter": 5}
    expected = attack("PGD", tanh_net().model, images, classes, steps)
    moved = attack(name, tanh_net().model, images, classes, {**steps, **more})
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def rippled() -> keras.Model:
    """Two classes apart by a slope under ripples that are ten times as steep."""
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(image)
    height = flat + 10 * 0.02 * keras.ops.sin(flat / 0.02)
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(image, dense(height))
    dense.set_weights([np.stack([np.zeros(PIXELS), np.ones(PIXELS)], axis=1)])
    return model


def test_a_slope_under_ripples_shows_in_the_mean_over_noise() -> None:
    model, images = rippled(), some_images(20)
    classes = np.zeros(20, int)
    steps = {"eps": 0.2, "eps_iter": 0.02, "nb_iter": 30}
    plain = attack("PGD", model, images, classes, steps)
    more = {**steps, "sigma": 0.1, "eot_iter": 200}
    averaged = attack("EOT-PGD", model, images, classes, more)
    assert (averaged - images).mean() > 0.19
    assert (plain - images).mean() < 0.1


@pytest.mark.parametrize("name", ["TI-PGD", "EOT-PGD"])
def test_in_an_l2_ball_it_goes_along_the_gradient(name: str) -> None:
    images = some_images(4)
    settings = {"eps": 0.3, "eps_iter": 0.1, "nb_iter": 60, "norm": "L2"}
    if name == "TI-PGD":
        settings["kernlen"] = 1
    found = run(name, linear(KERNEL), images, np.zeros(4, int), settings)
    way = (SLOPE / np.linalg.norm(SLOPE)).reshape(1, *SHAPE)
    np.testing.assert_allclose(found.images - images, 0.3 * way + 0 * images, atol=1e-4)


def test_starts_fill_an_l2_ball() -> None:
    images = some_images(400)
    settings = {"eps": 0.3, "eps_iter": 1e-6, "nb_iter": 1, "norm": "L2"}
    found = run("TI-PGD", linear(KERNEL), images, np.zeros(400, int), settings)
    # Of a ball of radius 1 in n dimensions the share r^n lies within r.
    shares = (found.l2 / 0.3) ** PIXELS
    assert shares.max() <= 1 + 1e-4
    counts, _ = np.histogram(shares, 4, (0, 1.001))
    assert np.abs(counts / 400 - 0.25).max() < 0.08


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"eot_iter": 0}, "eot_iter"),
        ({"norm": "L1"}, "norm"),
        ({"eps": 1.5}, "eps"),
        ({"eps_iter": 0.3}, "eps_iter"),
    ],
)
def test_a_setting_out_of_range_is_named(
    settings: dict[str, object], name: str
) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        run("EOT-PGD", linear(KERNEL), some_images(1), [0], {**TWICE, **settings})
