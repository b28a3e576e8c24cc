import itertools

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import (
    projected_gradient_descent,
)

from keras_traps.attacks import create
from keras_traps.attacks.losses import Loss
from tests.attacks.calling import ITERATIVE, Settings, attack, run, under_loss
from tests.attacks.victims import (
    SHAPE,
    TOWARDS_1,
    TWO_CLASSES,
    Floats,
    TanhNet,
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


def test_pgd_reaches_the_corner_of_the_ball_on_a_linear_model() -> None:
    images = some_images(20)
    settings = {"eps": 0.3, "eps_iter": 0.05, "nb_iter": 12}

    moved = attack("PGD", two_classes(), images, np.zeros(20, int), settings)

    corner = images + 0.3 * TOWARDS_1
    decided = np.broadcast_to(TOWARDS_1 != 0, corner.shape)
    np.testing.assert_allclose(moved[decided], corner[decided], atol=1e-6)


def transcribed_momentum(
    net: TanhNet,
    images: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    decay: float,
    direction: int,
) -> Floats:
    """Dong et al., algorithm 1, with the mean absolute value as its norm."""
    eps, eps_iter, nb_iter = 0.3, 0.03, 12
    clean = images.astype(np.float64)
    moved, momentum = clean.copy(), np.zeros(clean.shape)
    for _ in range(nb_iter):
        gradient = direction * net.gradient(moved, classes)
        norm = np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        momentum = decay * momentum + gradient / norm
        moved = moved + eps_iter * np.sign(momentum)
        moved = np.clip(np.clip(moved, clean - eps, clean + eps), 0, 1)
    return moved


@pytest.mark.parametrize(("name", "direction"), [("UMIFGSM", 1), ("TMIFGSM", -1)])
@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0, 1.5])
def test_momentum_is_what_its_authors_wrote(
    name: str, direction: int, decay: float
) -> None:
    net = tanh_net()
    images = np.random.default_rng(2).random((30, *SHAPE), np.float32)
    classes = np.arange(30) % 3
    settings = {"eps": 0.3, "eps_iter": 0.03, "nb_iter": 12, "decay_factor": decay}

    moved = attack(name, net.model, images, classes, settings)

    expected = transcribed_momentum(net, images, classes, decay, direction)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_the_factor_of_momentum_makes_a_difference() -> None:
    # Otherwise the test before would prove less than it says.
    net, classes = tanh_net(), np.arange(30) % 3
    images = np.random.default_rng(2).random((30, *SHAPE), np.float32)
    results = [
        transcribed_momentum(net, images, classes, decay, 1)
        for decay in (0.0, 0.6, 1.0, 1.5)
    ]
    for one, other in itertools.pairwise(results):
        assert np.abs(one - other).max() > 0.02


FROM_CLEVERHANS = {
    "BIM": basic_iterative_method,
    "ILLC": basic_iterative_method,
    "PGD": projected_gradient_descent,
    "UMIFGSM": momentum_iterative_method,
    "TMIFGSM": momentum_iterative_method,
    "MIM": momentum_iterative_method,
}


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("name", FROM_CLEVERHANS)
def test_the_images_are_those_of_cleverhans(name: str, loss: Loss) -> None:
    # One model for all, whose compiled parts the losses must not share.
    model, images = tanh_net().model, some_images(30)
    classes = np.arange(30) % 3
    settings: Settings = {"eps": 0.3, "eps_iter": 0.03, "nb_iter": 12}
    start, theirs, low, high = images, settings, 0.0, 1.0
    if name == "PGD":
        # Ours ends in the ball around the clean image, theirs in that of the start.
        still = {**settings, "eps_iter": 1e-30, "nb_iter": 1}
        start = attack(name, model, images, classes, still)
        low, high = np.maximum(images - 0.3, 0), np.minimum(images + 0.3, 1)
        theirs = {**settings, "eps": 2.0}

    made = attack(name, model, images, classes, settings, loss=loss)

    expected = FROM_CLEVERHANS[name](
        under_loss(model, classes, loss),
        tf.constant(start),
        **theirs,
        norm=np.inf,
        clip_min=np.float32(low),
        clip_max=np.float32(high),
        y=tf.constant(classes),
        targeted=name in ("ILLC", "TMIFGSM"),
        sanity_checks=False,
    )
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_the_losses_make_a_difference() -> None:
    # Otherwise the test before would prove less than it says.
    model, images, classes = tanh_net().model, some_images(30), np.arange(30) % 3
    for name in ("BIM", "ILLC", "UMIFGSM"):
        one, other = (
            attack(name, model, images, classes, ITERATIVE, loss=loss)
            for loss in ("cross_entropy", "margin")
        )
        assert np.abs(one - other).max() > 0.02


@pytest.mark.parametrize("decay", [-0.1, float("nan"), float("inf")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"`decay_factor`. Expected a finite number"):
        create("UMIFGSM", **ITERATIVE, decay_factor=decay)


def test_a_whole_step_is_one_step() -> None:
    settings = {"eps": 0.2, "eps_iter": 0.2, "nb_iter": 1}
    images, model = some_images(3), two_classes()
    np.testing.assert_array_equal(
        attack("BIM", model, images, [0, 1, 0], settings),
        attack("FGSM", model, images, [0, 1, 0], {"eps": 0.2}),
    )


EARLY = {"eps": 0.3, "eps_iter": 0.01, "nb_iter": 12}


@pytest.mark.parametrize("name", ["BIM", "PGD", "ILLC"])
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
            before = run(
                name,
                net.model,
                images,
                classes,
                {**settings, "nb_iter": int(steps) - 1},
            )
            assert not before.success[here].any()


def test_an_example_that_has_fallen_already_takes_no_step() -> None:
    images, classes = some_images(6), np.array([0, 1] * 3)
    answers = two_classes()(images).numpy().argmax(axis=1)

    result = run("BIM", two_classes(), images, classes, {**EARLY, "abort_early": True})

    wrong = answers != classes
    assert 0 < wrong.sum() < 6
    np.testing.assert_array_equal(result.images[wrong], images[wrong])
    assert (result.iterations[wrong] == 0).all()
    assert (result.iterations[~wrong] > 0).all()
    assert result.success[wrong].all()


def test_a_step_count_on_a_linear_model_is_the_lead_over_the_slope() -> None:
    images = some_images(20)
    logits = two_classes()(images).numpy().astype(np.float64)
    classes = logits.argmax(axis=1)
    slope = np.abs(TWO_CLASSES[:, 1] - TWO_CLASSES[:, 0]).sum()
    lead = np.abs(logits[:, 1] - logits[:, 0])
    settings = {"eps": 0.3, "eps_iter": 0.01, "nb_iter": 40, "abort_early": True}

    result = run("BIM", two_classes(), images, classes, settings)

    assert result.success.all()
    np.testing.assert_array_equal(result.iterations, np.ceil(lead / slope / 0.01))


def test_an_example_that_stands_makes_all_steps() -> None:
    images, classes = some_images(4), np.zeros(4, int)
    nowhere = {"eps": 1e-6, "eps_iter": 1e-6, "nb_iter": 5}
    right = np.flatnonzero(two_classes()(images).numpy().argmax(axis=1) == 0)
    images, classes = images[right], classes[right]

    early = run("BIM", two_classes(), images, classes, {**nowhere, "abort_early": True})

    whole = run("BIM", two_classes(), images, classes, nowhere)
    np.testing.assert_array_equal(early.images, whole.images)
    assert (early.iterations == 5).all()
    assert (whole.iterations == 5).all()
