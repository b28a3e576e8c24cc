import numpy as np
import pytest

from tests.attacks.calling import ITERATIVE, RANDOMISED, attack, run
from tests.attacks.victims import (
    TOWARDS_1,
    TWO_CLASSES,
    linear,
    some_images,
    tanh_net,
    two_classes,
)


def test_pgd_starts_anywhere_in_the_ball() -> None:
    images = some_images(200)
    settings = {"eps": 0.3, "eps_iter": 1e-4, "nb_iter": 1}

    moved = attack("PGD", two_classes(), images, np.zeros(200, int), settings)

    shares = (moved - images).reshape(-1) / 0.3
    assert shares.min() < -0.99
    assert shares.max() > 0.99
    counts, _ = np.histogram(shares, 4, (-1.001, 1.001))
    assert np.abs(counts / shares.size - 0.25).max() < 0.06


EARLY = {"eps": 0.3, "eps_iter": 0.01, "nb_iter": 12}


@pytest.mark.parametrize("name", ["PGD", "ILLC"])
def test_an_example_stops_at_the_first_step_that_succeeds(name: str) -> None:
    net, images = tanh_net(), some_images(30)
    answers = net.model(images).numpy().argsort(axis=1)
    # Away from the likeliest class, or towards the second.
    classes = answers[:, -2] if name == "ILLC" else answers[:, -1]

    early = run(name, net.model, images, classes, {**EARLY, "abort_early": True})

    assert len(set(early.iterations)) > 3
    assert early.success[early.iterations < 12].all()
    for steps in set(early.iterations[early.iterations > 0]):
        here = early.iterations == steps
        settings = {**EARLY, "nb_iter": int(steps)}
        there = run(name, net.model, images, classes, settings)
        np.testing.assert_allclose(early.images[here], there.images[here], atol=1e-6)
        if steps > 1:
            settings["nb_iter"] -= 1
            before = run(name, net.model, images, classes, settings)
            assert not before.success[here].any()


def test_fgsm_adds_eps_times_the_sign_of_the_gradient() -> None:
    images = some_images(4)

    moved = attack("FGSM", two_classes(), images, [0, 1, 0, 1], {"eps": 0.25})

    signs = np.concatenate([TOWARDS_1, -TOWARDS_1, TOWARDS_1, -TOWARDS_1])
    expected = images + np.float32(0.25) * signs.astype(np.float32)
    np.testing.assert_array_equal(moved, expected)
    # Towards a class it is the other way round.
    towards = attack("LLC", two_classes(), images, [1, 0, 1, 0], {"eps": 0.25})
    np.testing.assert_array_equal(towards, expected)


def test_random_steps_are_signs_of_alpha_before_the_gradient_step() -> None:
    images = some_images(200)
    for name, towards in (("RFGSM", TOWARDS_1), ("RLLC", -TOWARDS_1)):
        moved = attack(name, two_classes(), images, np.zeros(200, int), RANDOMISED)
        first = moved - images - (0.3 - 0.1) * towards
        np.testing.assert_allclose(np.abs(first), 0.1, atol=1e-6)
        # 1,200 fair coins: within five standard deviations of their mean.
        assert abs((first > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(first.size)


def test_no_attack_is_stopped_by_a_flat_cross_entropy() -> None:
    # The classes lie thousands apart: e to that power is nothing in float32.
    model, images = linear(TWO_CLASSES * np.float32(1e4)), some_images(5)
    # One leaves the class that the model is sure of; one has arrived where it aims.
    classes = model(images).numpy().argmax(axis=1)
    towards = np.where(classes[:, None, None, None] == 1, TOWARDS_1, -TOWARDS_1)
    for name, sign in (("BIM", -1), ("TMIFGSM", 1)):
        moved = attack(name, model, images, classes, ITERATIVE)
        expected = images + 0.15 * sign * towards
        np.testing.assert_allclose(moved, expected, atol=1e-6)
