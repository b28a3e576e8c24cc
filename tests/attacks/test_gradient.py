import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import create
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

Settings = dict[str, Any]

SINGLE = {"eps": 0.3}
RANDOMISED = {"eps": 0.3, "alpha": 0.1}
ITERATIVE = {"eps": 0.3, "eps_iter": 0.05, "nb_iter": 3}
SETTINGS: dict[str, Settings] = {
    "FGSM": SINGLE,
    "LLC": SINGLE,
    "RFGSM": RANDOMISED,
    "RLLC": RANDOMISED,
    "BIM": ITERATIVE,
    "ILLC": ITERATIVE,
    "PGD": ITERATIVE,
    "UMIFGSM": ITERATIVE,
    "TMIFGSM": ITERATIVE,
}
RANDOM = ("RFGSM", "RLLC", "PGD")


def attack(
    name: str,
    model: Any,
    images: npt.ArrayLike,
    classes: npt.ArrayLike,
    settings: Settings,
    **arguments: Any,
) -> npt.NDArray[np.float32]:
    """Attacks: an untargeted attack leaves `classes`, a targeted one aims at them."""
    made = create(name, **settings)
    classes = np.asarray(classes)
    if not made.targeted:
        return made(model, images, classes, **arguments).images
    wrong = (classes + 1) % int(model.output_shape[1])
    return made(model, images, wrong, y_target=classes, **arguments).images


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


def test_a_pixel_without_gradient_stays() -> None:
    images = some_images(1)
    for name in ("FGSM", "LLC", "BIM", "ILLC", "UMIFGSM", "TMIFGSM"):
        moved = attack(name, two_classes(), images, [1], SETTINGS[name])
        assert (moved != images).reshape(-1).tolist() == [1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("nb_iter", [1, 2, 7])
def test_every_iterate_stays_in_the_ball_and_in_the_pixels_range(
    name: str, nb_iter: int
) -> None:
    settings = {**SETTINGS[name], "eps": 0.12}
    if "nb_iter" in settings:
        settings["nb_iter"] = nb_iter
    draw = np.random.default_rng(1)
    images = draw.choice([0.0, 1.0, 0.05, 0.95, 0.5], (40, *SHAPE)).astype(np.float32)
    classes = draw.integers(0, 2, 40)

    moved = attack(name, two_classes(), images, classes, settings)

    assert moved.dtype == np.float32
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert np.abs(moved - images).max() <= 0.12 + 1e-6
    # Black and white pixels were pushed out as well as in.
    pushed = moved - images
    for edge, inwards in ((0.0, 1), (1.0, -1)):
        assert (pushed[images == edge] == 0).any()
        assert (pushed[images == edge] * inwards > 0.01).any()


def test_random_steps_are_signs_of_alpha_before_the_gradient_step() -> None:
    images = some_images(200)
    for name, towards in (("RFGSM", TOWARDS_1), ("RLLC", -TOWARDS_1)):
        moved = attack(name, two_classes(), images, np.zeros(200, int), RANDOMISED)
        first = moved - images - (0.3 - 0.1) * towards
        np.testing.assert_allclose(np.abs(first), 0.1, atol=1e-6)
        # 1,200 fair coins: within five standard deviations of their mean.
        assert abs((first > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(first.size)


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


@pytest.mark.parametrize("name", RANDOM)
def test_an_example_meets_the_same_randomness_in_any_batch(name: str) -> None:
    model, images, settings = tanh_net().model, some_images(7), SETTINGS[name]
    classes = np.array([0, 1, 2, 0, 1, 2, 0])
    ids = np.array([5, 3, 90, 2**40, 0, 1, 7])
    whole = attack(name, model, images, classes, settings, ids=ids, seed=3)

    by_three = attack(
        name, model, images, classes, settings, ids=ids, seed=3, batch_size=3
    )
    np.testing.assert_array_equal(by_three, whole)
    for order in ([6, 5, 4, 3, 2, 1, 0], [2], [4, 0]):
        some = attack(
            name,
            model,
            images[order],
            classes[order],
            settings,
            ids=ids[order],
            seed=3,
        )
        np.testing.assert_array_equal(some, whole[order])


@pytest.mark.parametrize("name", RANDOM)
def test_ids_and_seeds_change_the_randomness(name: str) -> None:
    model, settings = tanh_net().model, SETTINGS[name]
    images = np.repeat(some_images(1), 3, axis=0)
    classes = np.zeros(3, int)

    first = attack(name, model, images, classes, settings, seed=1)

    assert not (first[0] == first[1]).all()
    for change in ({"seed": 2}, {"seed": 1, "ids": [3, 4, 5]}):
        other = attack(name, model, images, classes, settings, **change)
        assert not (first == other).all(axis=(1, 2, 3)).any()
    same = attack(name, model, images, classes, settings, seed=1, ids=[0, 1, 2])
    np.testing.assert_array_equal(same, first)


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - set(RANDOM)))
def test_the_others_do_not_depend_on_ids_or_seed(name: str) -> None:
    model, images, settings = tanh_net().model, some_images(3), SETTINGS[name]
    first = attack(name, model, images, [0, 1, 2], settings)
    other = attack(name, model, images, [0, 1, 2], settings, seed=9, ids=[7, 8, 9])
    np.testing.assert_array_equal(first, other)


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


@pytest.mark.parametrize(("name", "direction"), [("BIM", 1), ("ILLC", -1)])
def test_bim_is_momentum_without_memory(name: str, direction: int) -> None:
    net, classes = tanh_net(), np.arange(30) % 3
    images = np.random.default_rng(2).random((30, *SHAPE), np.float32)
    settings = {"eps": 0.3, "eps_iter": 0.03, "nb_iter": 12}

    moved = attack(name, net.model, images, classes, settings)

    expected = transcribed_momentum(net, images, classes, 0.0, direction)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("name", SETTINGS)
def test_no_attack_is_stopped_by_a_flat_cross_entropy(name: str, loss: str) -> None:
    # The classes lie thousands apart: e to that power is nothing in float32.
    model = linear(TWO_CLASSES * np.float32(1e4))
    images, settings = some_images(5), SETTINGS[name]
    # An untargeted attack leaves the class that the model is sure of; a targeted one
    # goes on where it has arrived.
    classes = model(images).numpy().argmax(axis=1)
    towards = np.where(classes[:, None, None, None] == 1, TOWARDS_1, -TOWARDS_1)
    if not create(name, **settings).targeted:
        towards = -towards

    moved = attack(name, model, images, classes, settings, loss=loss)

    step = {**SINGLE, "alpha": 0.0, **settings}
    reach = step["eps"] - step["alpha"]
    if "nb_iter" in step:
        reach = step["nb_iter"] * step["eps_iter"]
    # Without a gradient, what remains is the random start.
    nowhere = linear(np.zeros_like(TWO_CLASSES))
    start = attack(name, nowhere, images, classes, settings)
    # Where a random start left the ball's edge no room, less is made of it.
    made = (moved - start) * towards
    decided = np.broadcast_to(TOWARDS_1 != 0, made.shape)
    assert (made[decided] >= -1e-6).all()
    assert made[decided].max() == pytest.approx(reach, abs=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("eps", [0, -0.1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused(name: str, eps: float) -> None:
    with pytest.raises(ValueError, match=r"argument `eps`.*above 0.*Received: eps="):
        create(name, **{**SETTINGS[name], "eps": eps})


@pytest.mark.parametrize("name", ["BIM", "ILLC", "PGD", "UMIFGSM", "TMIFGSM"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"eps_iter": 0.31}, r"`eps_iter`. Expected at most eps=0.3"),
        ({"eps_iter": 0}, r"`eps_iter`.*above 0"),
        ({"eps_iter": float("nan")}, r"`eps_iter`.*finite"),
        ({"nb_iter": 0}, r"`nb_iter`. Expected at least 1"),
        ({"nb_iter": -3}, r"`nb_iter`. Expected at least 1"),
        ({"nb_iter": 1.5}, r"`nb_iter`. Expected an integer"),
        ({"nb_iter": True}, r"`nb_iter`. Expected an integer"),
        ({"nb_iter": float("inf")}, r"`nb_iter`. Expected an integer"),
        ({"nb_iter": float("nan")}, r"`nb_iter`. Expected an integer"),
    ],
)
def test_steps_out_of_range_are_refused(
    name: str, change: Settings, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        create(name, **{**ITERATIVE, **change})


@pytest.mark.parametrize("name", ["RFGSM", "RLLC"])
@pytest.mark.parametrize("alpha", [0, -0.1, 0.3, 0.4, float("nan")])
def test_a_random_step_that_leaves_no_gradient_step_is_refused(
    name: str, alpha: float
) -> None:
    with pytest.raises(ValueError, match=r"`alpha`.*between 0 and eps=0.3"):
        create(name, eps=0.3, alpha=alpha)


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
