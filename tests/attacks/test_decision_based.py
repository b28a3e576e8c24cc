from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import AttackResult, create
from tests.attacks.nearest import distance_to_plane
from tests.attacks.victims import SHAPE, TWO_CLASSES, linear, some_images, two_classes

LEAD = (TWO_CLASSES[:, 1] - TWO_CLASSES[:, 0]).astype(np.float64)


def linf_distance(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Returns how far the border is, where no pixel clips."""
    lead = images.reshape(len(images), -1).astype(np.float64) @ LEAD
    distance: npt.NDArray[np.float64] = -lead / np.abs(LEAD).sum()
    return distance


def rays(images: Any, **settings: Any) -> AttackResult:
    return create("RayS", **settings)(two_classes(), images, [0] * len(images))


def test_rays_comes_as_near_as_the_border_is_and_no_nearer() -> None:
    images = some_images(12)
    shift = (linf_distance(images) - 0.2)[:, None, None, None]
    images += (shift * np.sign(LEAD).reshape(SHAPE)).astype(np.float32)
    np.testing.assert_allclose(linf_distance(images), 0.2, atol=1e-6)

    # It looks as closely as 1e-3 in L2.
    near = rays(images, eps=0.2 + 1e-3 / np.sqrt(LEAD.size))
    assert near.success.all()
    assert near.iterations.max() < 150
    far = rays(images, eps=0.2 - 1e-5)
    assert not far.success.any()
    np.testing.assert_array_equal(far.images, images)


def test_rays_stops_on_a_ray_within_eps() -> None:
    images = some_images(30)
    result = rays(images, eps=0.35)
    assert result.success.all()
    assert (result.iterations < 30).all()
    change = np.abs(result.images - images).reshape(30, -1)
    assert change.max() <= 0.35 + 1e-6
    np.testing.assert_allclose(change, np.repeat(change[:, :1], 6, 1), atol=1e-6)
    assert len(np.unique(change[:, 0].round(4))) > 1


def hop(images: Any, nb_queries: int, norm: str) -> AttackResult:
    attack = create("HopSkipJump", nb_queries=nb_queries, norm=norm)
    return attack(two_classes(), images, [0] * len(images))


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_hopskipjump_comes_close_to_the_nearest_point_of_the_border(norm: str) -> None:
    images = some_images(12)
    result = hop(images, 3000, norm)
    assert result.success.all()
    if norm == "L2":
        reached, exact = result.l2, distance_to_plane(images, TWO_CLASSES, 0, 1)
    else:
        reached, exact = result.linf, linf_distance(images)
    assert (reached >= exact - 1e-6).all()
    # Bisections end so far from the border.
    share = 6 ** (-1.5 if norm == "L2" else -2)
    assert (reached <= (1 + share) * exact).all()


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_hopskipjump_keeps_the_nearest_it_has_seen(norm: str) -> None:
    images = some_images(12)
    results = [hop(images, count, norm) for count in (40, 300, 1000)]
    reached = np.stack([one.l2 if norm == "L2" else one.linf for one in results])
    assert (np.diff(reached, axis=0) <= 1e-6).all()
    assert all(one.success.all() for one in results)
    assert (reached[0] > 1.1 * reached[2]).any()


def test_hopskipjump_gives_up_where_no_noise_fools() -> None:
    images = some_images(3)
    model = linear(TWO_CLASSES + np.array([[9.0, 0.0]], np.float32))
    result = create("HopSkipJump", nb_queries=30)(model, images, [0] * 3)
    assert not result.success.any()
    assert (result.iterations == 30).all()
    np.testing.assert_array_equal(result.images, images)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_hopskipjump_moves_pixels_from_the_ends_of_their_range(norm: str) -> None:
    images = np.random.default_rng(4).choice([0.0, 1.0], (20, *SHAPE)).astype("f4")
    labels = two_classes()(images).numpy().argmax(axis=1)
    attack = create("HopSkipJump", nb_queries=400, norm=norm)
    assert attack(two_classes(), images, labels).success.all()
