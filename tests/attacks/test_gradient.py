import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import Loss, create
from tests.attacks.calling import (
    ITERATIVE,
    RANDOMISED,
    attack,
    run,
)
from tests.attacks.victims import (
    SHAPE,
    TOWARDS_1,
    TWO_CLASSES,
    Floats,
    TanhNet,
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


@pytest.mark.parametrize(
    ("name", "direction", "decay"),
    [("UMIFGSM", 1, 0.0), ("UMIFGSM", 1, 1.0), ("TMIFGSM", -1, 0.6)],
)
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


@pytest.mark.parametrize(
    ("name", "loss"), [("PGD", "cross_entropy"), ("TMIFGSM", "margin")]
)
def test_no_attack_is_stopped_by_a_flat_cross_entropy(name: str, loss: Loss) -> None:
    # The classes lie thousands apart: e to that power is nothing in float32.
    model, images = linear(TWO_CLASSES * np.float32(1e4)), some_images(5)
    settings = ITERATIVE
    # An untargeted attack leaves the class that the model is sure of; a targeted one
    # goes on where it has arrived.
    classes = model(images).numpy().argmax(axis=1)
    towards = np.where(classes[:, None, None, None] == 1, TOWARDS_1, -TOWARDS_1)
    if not create(name, **settings).targeted:
        towards = -towards

    moved = attack(name, model, images, classes, settings, loss=loss)

    flat = linear(np.zeros_like(TWO_CLASSES))
    made = (moved - attack(name, flat, images, classes, settings)) * towards
    decided = np.broadcast_to(TOWARDS_1 != 0, made.shape)
    assert (made[decided] >= -1e-6).all()
    assert made[decided].max() == pytest.approx(3 * 0.05, abs=1e-5)
