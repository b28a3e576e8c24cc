"""Facts that the attacks in an L-infinity ball share."""

import functools

import keras
import numpy as np
import pytest

from keras_traps.attacks import create
from tests.attacks.calling import (
    ITERATIVE,
    SIGN_GRADIENT,
    SINGLE,
    Settings,
    attack,
)
from tests.attacks.victims import (
    SHAPE,
    TOWARDS_1,
    TWO_CLASSES,
    linear,
    some_images,
    tanh_net,
    two_classes,
)

ATTACKS: dict[str, Settings] = {
    **SIGN_GRADIENT,
    "MIM": ITERATIVE,
    "MIM-TI": {**ITERATIVE, "kernlen": 3, "nsig": 3},
}
EARLY = {name: {**ITERATIVE, "abort_early": True} for name in ("BIM", "ILLC", "PGD")}
ALL = [
    *(pytest.param(name, ATTACKS[name], id=name) for name in ATTACKS),
    *(pytest.param(name, EARLY[name], id=f"{name}-early") for name in EARLY),
]
RANDOM = ("RFGSM", "RLLC", "PGD")
# A convolved gradient is another one.
PLAIN = [name for name in ATTACKS if name != "MIM-TI"]


@pytest.mark.parametrize("name", sorted(set(PLAIN) - set(RANDOM)))
def test_a_pixel_without_gradient_stays(name: str) -> None:
    images = some_images(1)
    moved = attack(name, two_classes(), images, [1], ATTACKS[name])
    assert (moved != images).reshape(-1).tolist() == [1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize(("name", "settings"), ALL)
@pytest.mark.parametrize("nb_iter", [1, 2, 7])
def test_every_iterate_stays_in_the_ball_and_in_the_pixels_range(
    name: str, settings: Settings, nb_iter: int
) -> None:
    settings = {**settings, "eps": 0.12}
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


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_an_example_fares_the_same_in_any_batch(name: str, settings: Settings) -> None:
    model, images = tanh_net().model, some_images(7)
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
    model, settings = tanh_net().model, ATTACKS[name]
    images = np.repeat(some_images(1), 3, axis=0)
    classes = np.zeros(3, int)

    first = attack(name, model, images, classes, settings, seed=1)

    assert not (first[0] == first[1]).all()
    for change in ({"seed": 2}, {"seed": 1, "ids": [3, 4, 5]}):
        other = attack(name, model, images, classes, settings, **change)
        assert not (first == other).all(axis=(1, 2, 3)).any()
    same = attack(name, model, images, classes, settings, seed=1, ids=[0, 1, 2])
    np.testing.assert_array_equal(same, first)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - set(RANDOM)))
def test_the_others_do_not_depend_on_ids_or_seed(name: str) -> None:
    model, images, settings = tanh_net().model, some_images(3), ATTACKS[name]
    first = attack(name, model, images, [0, 1, 2], settings)
    other = attack(name, model, images, [0, 1, 2], settings, seed=9, ids=[7, 8, 9])
    np.testing.assert_array_equal(first, other)


@functools.cache
def steep() -> keras.Model:
    """The classes lie thousands apart: e to that power is nothing in float32."""
    return linear(TWO_CLASSES * np.float32(1e4))


@functools.cache
def flat() -> keras.Model:
    """Has no gradient: what an attack makes of it is its random start."""
    return linear(np.zeros_like(TWO_CLASSES))


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("name", PLAIN)
def test_no_attack_is_stopped_by_a_flat_cross_entropy(name: str, loss: str) -> None:
    model, images, settings = steep(), some_images(5), ATTACKS[name]
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
    start = attack(name, flat(), images, classes, settings)
    # Where a random start left the ball's edge no room, less is made of it.
    made = (moved - start) * towards
    decided = np.broadcast_to(TOWARDS_1 != 0, made.shape)
    assert (made[decided] >= -1e-6).all()
    assert made[decided].max() == pytest.approx(reach, abs=1e-5)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("eps", [0, -0.1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused(name: str, eps: float) -> None:
    with pytest.raises(ValueError, match=r"argument `eps`.*above 0.*Received: eps="):
        create(name, **{**ATTACKS[name], "eps": eps})


@pytest.mark.parametrize("name", [n for n in ATTACKS if "nb_iter" in ATTACKS[n]])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"eps_iter": 0.31}, r"`eps_iter`. Expected at most eps=0.3"),
        ({"eps_iter": 0}, r"`eps_iter`.*above 0"),
        ({"eps_iter": float("nan")}, r"`eps_iter`.*finite"),
        ({"nb_iter": 0}, r"`nb_iter`. Expected at least 1"),
        ({"nb_iter": 1.5}, r"`nb_iter`. Expected an integer"),
    ],
)
def test_steps_out_of_range_are_refused(
    name: str, change: Settings, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        create(name, **{**ATTACKS[name], **change})
