from typing import Any, ClassVar
from unittest import mock

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Batch, create, square
from keras_traps.attacks.square import Square, _bump
from keras_traps.datasets import Dataset
from tests.attacks.victims import TOWARDS_1, some_images, two_classes


def test_it_ends_at_corners_of_the_box() -> None:
    images = some_images(20)
    images[:, 0] = [[0.0], [1.0], [0.05]]
    labels = two_classes()(images).numpy().argmax(axis=1)
    result = create("Square", eps=0.1, nb_queries=30)(two_classes(), images, labels)
    corners = np.clip(images + 0.1, 0, 1), np.clip(images - 0.1, 0, 1)
    off = np.minimum(*(np.abs(result.images - corner) for corner in corners))
    assert off.max() < 1e-6


class Notes:
    """Says that nothing is better than the first image but the clean one."""

    rejections = 0
    asked: ClassVar[list[npt.NDArray[np.float32]]] = []

    def __init__(self, attack: Square, batch: Batch) -> None:
        del attack, batch
        self.asked.clear()

    def tell(self, rows: IntArray, images: FloatArray) -> FloatArray:
        self.asked.append(images)
        told = -1.0 if len(self.asked) < 3 else -2.0
        return np.full(len(rows), told, np.float32)


def asked_by(
    shape: tuple[int, int, int], count: int = 1, **settings: Any
) -> list[npt.NDArray[np.float32]]:
    """Lists what is asked after the clean images: `(count, ...)` in each query."""
    attack = Square(eps=0.1, **settings)
    clean = np.full((count, *shape), 0.5, np.float32)
    labels, ids = np.zeros(count, np.int64), np.arange(count)
    model: Any = None
    with mock.patch.object(square, "Teller", Notes):
        attack.perturb(Batch(model, "cross_entropy", clean, labels, ids, 3, clean))
    return Notes.asked[1:]


# Of .8 of the 300 pixels, which are less high than wide, and half of that each time.
SIDES = [15, 11, 8, 5, 4]


@pytest.mark.parametrize(
    ("channels", "settings", "halved"),
    [
        (1, {"nb_queries": 10_000}, [0, 11, 51, 201, 501, 600]),
        (3, {"nb_queries": 10_000}, [0, 11, 51, 201, 501, 600]),
        (1, {"nb_queries": 2000}, [0, 3, 11, 41, 101, 200]),
        # AutoAttack's do not shrink sooner.
        (3, {"nb_queries": 602, "resc_schedule": False}, [0, 11, 51, 201, 501, 600]),
    ],
)
def test_a_square_is_of_its_authors_size_and_of_one_colour(
    channels: int, settings: dict[str, Any], halved: list[int]
) -> None:
    stripes, *squares = (one[0] for one in asked_by((20, 15, channels), **settings))
    squares = squares[: halved[-1]]
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


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_an_example_is_asked_about_alike_beside_others_and_beyond_the_first_draws(
    norm: str,
) -> None:
    alone = asked_by((9, 9, 3), norm=norm, nb_queries=600, p_init=0.1)
    beside = asked_by((9, 9, 3), count=3, norm=norm, nb_queries=600, p_init=0.1)
    assert len(alone) == 599
    for one, all_three in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one[0], all_three[0])
    later = np.array([one[0] for one in alone[502:]])
    earlier = np.array([one[0] for one in alone[2:99]])
    assert (later[:97] != earlier).any()


def test_a_bump_is_a_hill_beside_a_dale() -> None:
    for side in (3, 5, 8):
        bump = _bump(side)
        half = side // 2
        assert np.linalg.norm(bump) == pytest.approx(1, rel=1e-6)
        assert (bump[:half] >= 0).all()
        assert (bump[half:] <= 0).all()
        assert np.abs(bump[half:]).argmax() == ((side - half) // 2) * side + half
    # By hand, in the middle of a hill of 2x5: rectangles of 1, 1/4 and 1/9.
    hill = np.array([[13, 13, 13, 13, 13], [4, 13, 49, 13, 4]]) / 36
    hill[0] = [4 / 36, 13 / 36, 13 / 36, 13 / 36, 4 / 36]
    np.testing.assert_allclose(_bump(5)[:2], hill / hill[1, 2] * _bump(5)[1, 2])


def test_in_the_sphere_the_whole_radius_is_used_from_the_start() -> None:
    for one in asked_by((10, 10, 3), count=2, norm="L2", nb_queries=50):
        lengths = np.linalg.norm((one - 0.5).reshape(2, -1), axis=1)
        np.testing.assert_allclose(lengths, 0.1, rtol=1e-4)


def test_in_the_sphere_what_lies_in_neither_square_keeps_its_direction() -> None:
    start, *others = (
        one[0] - 0.5
        for one in asked_by((20, 20, 1), norm="L2", nb_queries=3000, p_init=0.05)
    )
    for change in others[2000:2010]:
        # Of 3x3 pixels each.
        same = np.isclose(change, start, atol=1e-6)
        assert 400 - 18 <= same.sum() < 400


def planted() -> keras.Model:
    """Class 1 counts how bright a square of 4x4 in the corner is, beyond a level."""
    image = keras.Input((12, 12, 1))
    corner = keras.layers.Cropping2D(((0, 8), (8, 0)))(image)
    level = keras.layers.GlobalAveragePooling2D()(corner)
    kernel = np.array([[0.0, 1.0]], np.float32)
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(level))
    dense.set_weights([kernel, np.array([0.59, 0.0], np.float32)])
    return model


def test_it_finds_a_planted_square() -> None:
    images = np.full((10, 12, 12, 1), 0.5, np.float32)
    made = create("Square", eps=0.1, nb_queries=2000)
    result = made(planted(), images, [0] * 10)
    assert result.success.all()
    # All of the square has to be brighter.
    np.testing.assert_allclose(result.images[:, :4, 8:], 0.6, atol=1e-6)
    weak = create("Square", eps=0.08, nb_queries=200)(planted(), images, [0] * 10)
    assert not weak.success.any()
    np.testing.assert_array_equal(weak.iterations, 200)


def test_it_keeps_what_came_nearest() -> None:
    images = some_images(20)
    result = create("Square", eps=0.1, nb_queries=200)(two_classes(), images, [0] * 20)
    assert not result.success.any()
    # A lead is linear: of single pixels each is kept that helps.
    depends = TOWARDS_1[0] != 0
    best = images + 0.1 * TOWARDS_1
    np.testing.assert_allclose(result.images[:, depends], best[:, depends], atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.15), ("L2", 1.0)])
def test_it_fools_more_than_noise_by_as_many_queries(
    norm: str, eps: float, digits_classifier: keras.Model, digits_test: Dataset
) -> None:
    images, labels = digits_test.images[:60], digits_test.labels[:60]
    made = create("Square", eps=eps, norm=norm, nb_queries=100)
    square = made(digits_classifier, images, labels)
    draw = np.random.default_rng(0)
    fooled = np.zeros(60, bool)
    for _ in range(100):
        noise = draw.standard_normal(images.shape)
        if norm == "Linf":
            noise = np.sign(noise)
        else:
            noise /= np.linalg.norm(noise.reshape(60, -1), axis=1)[:, None, None, None]
        tried = np.clip(images + eps * noise, 0, 1).astype(np.float32)
        answers = digits_classifier(tried, training=False).numpy().argmax(axis=1)
        fooled |= answers != labels
    assert square.success.sum() >= fooled.sum() + 10
