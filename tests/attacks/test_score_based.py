import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import create
from keras_traps.attacks.queries import Example
from keras_traps.attacks.score_based import Square
from keras_traps.datasets import Dataset
from tests.attacks.victims import (
    TOWARDS_1,
    some_images,
    tanh_net,
    two_classes,
)


def test_square_ends_at_corners_of_the_box() -> None:
    images = some_images(20)
    images[:, 0] = [[0.0], [1.0], [0.05]]
    labels = two_classes()(images).numpy().argmax(axis=1)
    result = create("Square", eps=0.1, nb_queries=30)(two_classes(), images, labels)
    corners = np.clip(images + 0.1, 0, 1), np.clip(images - 0.1, 0, 1)
    off = np.minimum(*(np.abs(result.images - corner) for corner in corners))
    assert off.max() < 1e-6


def asked_by_square(
    shape: tuple[int, int, int], nb_queries: int, count: int
) -> list[npt.NDArray[np.float32]]:
    """Lists what Square asks where nothing is better than the first stripes."""
    clean = np.full(shape, 0.5, np.float32)
    example = Example(clean, clean.copy(), np.random.default_rng(3))
    search = Square(eps=0.1, nb_queries=nb_queries).search(example)
    asked = [next(search)[0]]
    for number in range(count):
        told = np.array([-1.0 - (number > 0)], np.float32)
        asked.append(search.send(told)[0])
    return asked


# Of .8 of the 300 pixels, which are less high than wide, and half of that each time.
SIDES = [15, 11, 8, 5, 4]


@pytest.mark.parametrize(
    ("channels", "nb_queries", "halved"),
    [
        (1, 10_000, [0, 11, 51, 201, 501, 600]),
        (3, 10_000, [0, 11, 51, 201, 501, 600]),
        (1, 2000, [0, 3, 11, 41, 101, 200]),
    ],
)
def test_a_square_is_of_its_authors_size_and_of_one_colour(
    channels: int, nb_queries: int, halved: list[int]
) -> None:
    stripes, *squares = asked_by_square((20, 15, channels), nb_queries, halved[-1])
    assert (stripes == stripes[:1]).all()
    assert len(np.unique(stripes[0], axis=0)) > 1
    seen, sides = np.zeros((20, 15), bool), []
    for tried in squares:
        rows, columns = (tried != stripes).any(axis=2).nonzero()
        seen[rows, columns] = True
        # What has changed spans the square's height, and some of its width.
        sides.append(np.ptp(rows) + 1)
        assert np.ptp(columns) < sides[-1]
        square = tried[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (square == square[:1, :1]).all()
    expected = np.repeat(SIDES, np.diff(halved))
    np.testing.assert_array_equal(sides, expected)
    # Up to every border.
    assert seen[[0, -1]].any(axis=1).all()
    assert seen[:, [0, -1]].any(axis=0).all()


def test_square_fools_more_than_noise_by_as_many_queries(
    digits_classifier: keras.Model, digits_test: Dataset
) -> None:
    images, labels = digits_test.images[:60], digits_test.labels[:60]
    square, *noises = (
        create(name, eps=0.15, **settings)(digits_classifier, images, labels)
        for name, settings in (
            ("Square", {"nb_queries": 100}),
            ("Noise", {"nb_restarts": 100}),
            ("Noise", {"nb_restarts": 100, "noise_kind": "sign"}),
        )
    )
    for noise in noises:
        assert square.success.sum() >= noise.success.sum() + 10


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


def test_square_keeps_what_came_nearest() -> None:
    images = some_images(20)
    result = create("Square", eps=0.1, nb_queries=200)(two_classes(), images, [0] * 20)
    assert not result.success.any()
    # A lead is linear: of single pixels each is kept that helps.
    depends = TOWARDS_1[0] != 0
    best = images + 0.1 * TOWARDS_1
    np.testing.assert_allclose(result.images[:, depends], best[:, depends], atol=1e-6)


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
