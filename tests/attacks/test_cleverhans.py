"""Ours held against cleverhans' as shipped, with the same settings."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from keras_traps.attacks import AttackResult, Loss, cleverhans, create
from tests.attacks.calling import Settings, run
from tests.attacks.nearest import distance_to_plane
from tests.attacks.victims import (
    SHAPE,
    TWO_CLASSES,
    linear,
    some_images,
    tanh_net,
    two_classes,
)

STEPS: Settings = {"eps": 0.3, "eps_iter": 0.03, "nb_iter": 12}
CLASSES = np.arange(30) % 3
LOSSES: list[Loss] = ["cross_entropy", "margin"]


def both(ours: str, theirs: str, settings: Settings, **more: Any) -> list[AttackResult]:
    """Attacks with both, away from the true classes or towards given ones."""
    aim = {"aim": "random"} if create(ours, **settings).targeted else {}
    images = some_images(30)
    # Some pixels have no room for a whole step.
    images[::3, 0] = np.random.default_rng(0).choice([0.0, 0.1, 1.0], (10, 3, 1))
    return [
        run(name, tanh_net().model, images, CLASSES, {**settings, **own}, **more)
        for name, own in ((ours, {}), (f"cleverhans/{theirs}", aim))
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        ("FGSM", "FGM", {"eps": 0.3}),
        ("ILLC", "BIM", STEPS),
        ("UMIFGSM", "MIM", {**STEPS, "decay_factor": 0.7}),
        ("TMIFGSM", "MIM", STEPS),
    ],
)
def test_the_images_are_those_of_cleverhans(
    ours: str, theirs: str, settings: Settings
) -> None:
    one, other = both(ours, theirs, settings)
    np.testing.assert_allclose(one.images, other.images, atol=1e-6)
    np.testing.assert_array_equal(one.success, other.success)
    np.testing.assert_array_equal(one.iterations, other.iterations)


@pytest.mark.parametrize("loss", LOSSES)
def test_from_one_start_pgd_ends_where_cleverhans_does(loss: Loss) -> None:
    model, images = tanh_net().model, some_images(30)
    still = run("PGD", model, images, CLASSES, {**STEPS, "eps_iter": 1e-30})
    ours = run("PGD", model, images, CLASSES, STEPS, loss=loss)

    # Theirs ends in the ball around its start, unless the box is that around the image.
    theirs = create("cleverhans/PGD", **STEPS, rand_init=False)
    expected = projected_gradient_descent(
        model,
        tf.constant(still.images),
        2.0,
        0.03,
        12,
        np.inf,
        loss_fn=cleverhans._margin if loss == "margin" else None,
        clip_min=np.maximum(images - np.float32(0.3), 0),
        clip_max=np.minimum(images + np.float32(0.3), 1),
        y=tf.constant(CLASSES),
    )
    np.testing.assert_allclose(ours.images, expected, atol=1e-6)
    # Without a random start both are BIM.
    bim = run("BIM", model, images, CLASSES, STEPS, loss=loss)
    np.testing.assert_allclose(
        theirs(model, images, CLASSES, loss=loss).images, bim.images, atol=1e-6
    )


@pytest.mark.parametrize("name", ["FGM", "PGD", "MIM"])
def test_a_result_stays_in_the_ball_of_its_norm(name: str) -> None:
    made = create(
        f"cleverhans/{name}", norm="L2", **({"eps": 0.3} if name == "FGM" else STEPS)
    )
    assert (made.linf_bound, made.l2_bound) == (None, 0.3)
    images = np.random.default_rng(1).choice([0.0, 0.5, 1.0], (20, *SHAPE))
    result = made(tanh_net().model, images, CLASSES[:20])
    assert 0.25 < result.l2.max() <= 0.3 + 1e-5


@pytest.mark.slow
def test_carlini_and_wagners_changes_are_as_short() -> None:
    images = some_images(2)
    settings = {"binary_search_steps": 7, "max_iterations": 100, "learning_rate": 0.02}
    settings["abort_early"] = False
    # Each of the six values has a constant of its own.
    theirs = {**settings, "initial_const": 0.1 / 6}
    for name, given in (
        ("CW2", {**settings, "initial_const": 0.1}),
        ("cleverhans/CW2", theirs),
    ):
        result = run(name, two_classes(), images, [1] * 2, given)
        assert result.success.all()
        shortest = distance_to_plane(images, TWO_CLASSES, 0, 1)
        np.testing.assert_allclose(result.l2, shortest, rtol=0.05)
        assert (result.iterations > 100).all()


@pytest.mark.slow
def test_spsa_leads_to_the_same_corner() -> None:
    images, labels = some_images(3), [0, 0, 0]
    settings = {"eps": 0.1, "nb_iter": 12, "learning_rate": 0.03, "spsa_samples": 256}
    one, other = (
        create(name, **settings)(two_classes(), images, labels).images
        for name in ("SPSA", "cleverhans/SPSA")
    )
    decided = np.abs(TWO_CLASSES[:, 0] - TWO_CLASSES[:, 1]) > 0.5
    one, other = (made.reshape(3, -1)[:, decided] for made in (one, other))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_an_aim_makes_it_targeted() -> None:
    made = create("cleverhans/FGM", eps=0.3, aim="least_likely")
    assert (made.kind, made.target_rule, made.targeted) == ("TA", "least_likely", True)
    plain = create("cleverhans/FGM", eps=0.3)
    assert (plain.kind, plain.target_rule, plain.targeted) == ("UA", "none", False)
    model = linear(TWO_CLASSES)
    with pytest.raises(ValueError, match=r"`y_target`. cleverhans/FGM is targeted"):
        made(model, some_images(1), [0])
