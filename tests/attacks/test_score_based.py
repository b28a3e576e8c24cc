import numpy as np
import pytest

from keras_traps.attacks import create
from tests.attacks.victims import (
    TOWARDS_1,
    some_images,
    tanh_net,
    two_classes,
)


def test_a_longer_search_of_nes_begins_with_a_shorter_one() -> None:
    images = some_images(30)
    labels = tanh_net().model(images).numpy().argmax(axis=1)
    short, long = (
        create("NES", eps=0.1, eps_iter=0.01, nes_samples=4, nb_queries=count)(
            tanh_net().model, images, labels
        )
        for count in (8, 60)
    )
    assert 0 < short.success.sum() < long.success.sum()
    done = short.success
    np.testing.assert_array_equal(long.images[done], short.images[done])
    np.testing.assert_array_equal(long.iterations[done], short.iterations[done])


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_nes_steps_by_the_sign_of_the_gradient(steps: int) -> None:
    images = some_images(6)
    settings = {"eps": 0.06, "eps_iter": 0.02, "nes_samples": 4000}
    # What does not suffice for a whole estimate is not spent.
    result = create("NES", **settings, nb_queries=1 + 4001 * steps + 3000)(
        two_classes(), images, [0] * 6
    )
    assert (result.iterations == 1 + 4001 * steps).all()
    expected = images + min(0.02 * steps, 0.06) * TOWARDS_1
    depends = TOWARDS_1[0] != 0
    np.testing.assert_allclose(
        result.images[:, depends], expected[:, depends], atol=1e-6
    )


def test_the_first_step_of_spsa_is_adams_along_the_sign_of_the_gradient() -> None:
    images = some_images(6)
    settings = {"learning_rate": 0.02, "delta": 0.01, "spsa_samples": 4000}
    result = create("SPSA-Q", eps=0.06, **settings, nb_queries=4002)(
        two_classes(), images, [0] * 6
    )
    assert (result.iterations == 4002).all()
    expected = images + 0.02 * TOWARDS_1
    depends = TOWARDS_1[0] != 0
    np.testing.assert_allclose(
        result.images[:, depends], expected[:, depends], atol=1e-6
    )


def test_spsa_goes_on_with_momentum() -> None:
    # Of one slope, all of Adam's steps are as long as the first.
    images = some_images(6)
    settings = {"learning_rate": 0.01, "delta": 0.01, "spsa_samples": 4000}
    result = create("SPSA-Q", eps=0.06, **settings, nb_queries=1 + 3 * 4001)(
        two_classes(), images, [0] * 6
    )
    moved = (result.images - images)[:, TOWARDS_1[0] != 0]
    way = TOWARDS_1[0][TOWARDS_1[0] != 0]
    np.testing.assert_allclose(moved, np.tile(0.03 * way, (6, 1)), atol=2e-3)


def test_nes_asks_before_each_estimate_whether_it_may_stop() -> None:
    images = some_images(20)
    result = create("NES", eps=0.4, eps_iter=0.05, nes_samples=10)(
        two_classes(), images, [0] * 20
    )
    assert result.success.all()
    assert ((result.iterations - 1) % 11 == 0).all()
    # None is further than its steps, and one less would not have done.
    steps = (result.iterations - 1) // 11
    np.testing.assert_array_less(result.linf, 0.05 * steps + 1e-6)
    assert len(set(steps)) > 2
