import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

from keras_traps.attacks import create
from keras_traps.attacks.losses import Loss
from tests.attacks.calling import RANDOMISED, SINGLE, SINGLE_STEP, attack, under_loss
from tests.attacks.victims import (
    PIXELS,
    SHAPE,
    TOWARDS_1,
    linear,
    some_images,
    tanh_net,
    two_classes,
)


def test_fgsm_adds_eps_times_the_sign_of_the_gradient() -> None:
    images = some_images(4)

    moved = attack("FGSM", two_classes(), images, [0, 1, 0, 1], {"eps": 0.25})

    signs = np.concatenate([TOWARDS_1, -TOWARDS_1, TOWARDS_1, -TOWARDS_1])
    expected = images + np.float32(0.25) * signs.astype(np.float32)
    np.testing.assert_array_equal(moved, expected)


def test_llc_goes_the_opposite_way_of_fgsm_towards_its_target() -> None:
    images, settings = some_images(4), {"eps": 0.25}
    targets = np.array([0, 1, 2, 1])
    net = tanh_net()

    moved = attack("LLC", net.model, images, targets, settings)

    signs = np.sign(net.gradient(images.astype(np.float64), targets))
    expected = images - np.float32(0.25) * signs.astype(np.float32)
    np.testing.assert_array_equal(moved, expected)
    away = attack("FGSM", net.model, images, targets, settings)
    np.testing.assert_allclose(moved - images, images - away, atol=1e-6)


def test_random_steps_are_signs_of_alpha_before_the_gradient_step() -> None:
    images = some_images(200)
    for name, towards in (("RFGSM", TOWARDS_1), ("RLLC", -TOWARDS_1)):
        moved = attack(name, two_classes(), images, np.zeros(200, int), RANDOMISED)
        first = moved - images - (0.3 - 0.1) * towards
        np.testing.assert_allclose(np.abs(first), 0.1, atol=1e-6)
        # 1,200 fair coins: within five standard deviations of their mean.
        assert abs((first > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(first.size)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("name", SINGLE_STEP)
def test_the_images_are_those_of_cleverhans(name: str, loss: Loss) -> None:
    model, settings, classes = tanh_net().model, SINGLE_STEP[name], np.arange(60) % 3
    # Some pixels have no room for a whole step.
    values = np.random.default_rng(2).choice([0.0, 0.1, 0.5, 1.0], (60, *SHAPE))
    images = values.astype(np.float32)
    # Where there is no gradient, an attack makes its random step alone.
    flat = linear(np.zeros((PIXELS, 3), np.float32))
    start = attack(name, flat, images, classes, settings)

    made = attack(name, model, images, classes, settings, loss=loss)

    expected = fast_gradient_method(
        under_loss(model, classes, loss),
        tf.constant(start),
        settings["eps"] - settings.get("alpha", 0.0),
        np.inf,
        clip_min=0.0,
        clip_max=1.0,
        y=tf.constant(classes),
        targeted=name in ("LLC", "RLLC"),
    )
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_the_losses_make_a_difference() -> None:
    # Otherwise the test before would prove less than it says.
    model, images, classes = tanh_net().model, some_images(60), np.arange(60) % 3
    one, other = (
        attack("FGSM", model, images, classes, SINGLE, loss=loss)
        for loss in ("cross_entropy", "margin")
    )
    assert np.abs(one - other).max() > 0.5


@pytest.mark.parametrize("name", ["RFGSM", "RLLC"])
@pytest.mark.parametrize("alpha", [0, -0.1, 0.3, 0.4, float("nan")])
def test_a_random_step_that_leaves_no_gradient_step_is_refused(
    name: str, alpha: float
) -> None:
    with pytest.raises(ValueError, match=r"`alpha`.*between 0 and eps=0.3"):
        create(name, eps=0.3, alpha=alpha)
