from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from scipy.optimize import LinearConstraint, linprog, minimize

from keras_traps.attacks import create
from keras_traps.attacks.base import NormName
from keras_traps.attacks.fab import to_plane
from keras_traps.datasets import Dataset
from tests.attacks.nearest import nearest_answer
from tests.attacks.victims import TWO_CLASSES, linear, some_images, two_classes

Array = npt.NDArray[Any]
NORMS: list[NormName] = ["Linf", "L2"]


def changed(points: Array, slopes: Array, values: Array, norm: NormName) -> Array:
    shape = (len(points), 1, -1, 1)
    given = (points.reshape(shape), slopes.reshape(shape), values)
    at, along, level = (tf.constant(one, tf.float32) for one in given)
    change = to_plane(at, along, level, norm)
    array: Array = change.numpy().reshape(points.shape).astype(np.float64)
    return array


def solved(point: Array, slope: Array, value: float, norm: NormName) -> float | None:
    """Returns the length of the shortest change, by a solver; `None` where none is."""
    count, low, high = len(point), -point, 1 - point
    if norm == "Linf":
        # The last variable bounds all others.
        ones = np.ones((count, 1))
        above = np.vstack(
            [np.hstack([np.eye(count), -ones]), np.hstack([-np.eye(count), -ones])]
        )
        found = linprog(
            [0] * count + [1],
            A_ub=above,
            b_ub=np.zeros(2 * count),
            A_eq=[[*slope, 0]],
            b_eq=[-value],
            bounds=[*zip(low, high, strict=True), (0, None)],
        )
        return float(found.fun) if found.success else None
    reach = np.where(slope * value > 0, low, high) @ slope
    if abs(reach) < abs(value):
        return None
    found = minimize(
        lambda change: (change**2).sum(),
        np.zeros(count),
        jac=lambda change: 2 * change,
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        constraints=LinearConstraint(slope[None], -value, -value),
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return float(np.sqrt(found.fun)) if found.success else None


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_to_a_plane_is_the_shortest_in_the_box(norm: NormName) -> None:
    draw = np.random.default_rng(0)
    points = draw.choice([0, 0.05, 0.4, 0.8, 1], (60, 7)).astype(float)
    slopes = draw.normal(0, 1, (60, 7)) * draw.choice(
        [0, 1, 0.1], (60, 7), p=[0.2, 0.5, 0.3]
    )
    values = draw.normal(0, 1.5, 60)
    ways = changed(points, slopes, values, norm)
    moved = points + ways
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6
    known = 0
    for way, point, slope, value in zip(ways, points, slopes, values, strict=True):
        shortest = solved(point, slope, value, norm)
        if shortest is None:
            continue
        known += 1
        assert slope @ way == pytest.approx(-value, abs=1e-5)
        length = np.abs(way).max() if norm == "Linf" else np.linalg.norm(way)
        assert length == pytest.approx(shortest, abs=1e-5)
    assert 20 < known < 60


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_out_of_the_box_is_neared_as_far_as_there_is_room(
    norm: NormName,
) -> None:
    points, slopes = (
        np.array([[0.3, 0.6, 0.0, 0.5]]),
        np.array([[2.0, -1.0, 0.0, 1e-4]]),
    )
    ways = changed(points, slopes, np.array([9.0]), norm)
    np.testing.assert_allclose(ways, [[-0.3, 0.4, 0, -0.5]], atol=1e-6)
    ways = changed(points, slopes, np.array([-9.0]), norm)
    np.testing.assert_allclose(ways, [[0.7, -0.6, 0, 0.5]], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("norm", NORMS)
def test_no_scale_of_the_function_changes_the_way(norm: NormName, scale: float) -> None:
    points, slopes = np.array([[0.3, 0.6, 0.1]]), np.array([[2.0, -1.0, 0.5]])
    way = changed(points, slopes, np.array([0.5]), norm)
    scaled = changed(points, slopes * scale, np.array([0.5 * scale]), norm)
    np.testing.assert_allclose(scaled, way, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_where_there_is_no_slope_or_no_gap_nothing_moves(norm: NormName) -> None:
    points = np.array([[0.3, 0.6], [0.3, 0.6]])
    slopes = np.array([[0.0, 0.0], [1.0, -1.0]])
    ways = changed(points, slopes, np.array([1.0, 0.0]), norm)
    np.testing.assert_array_equal(ways, 0)


def nearest(images: Array, norm: NormName) -> Array:
    """Returns how far the images are from the other class; no pixel clips."""
    normal = (TWO_CLASSES[:, 0] - TWO_CLASSES[:, 1]).astype(np.float64)
    lead = images.reshape(len(images), -1).astype(np.float64) @ normal
    size = np.abs(normal).sum() if norm == "Linf" else np.linalg.norm(normal)
    distance: Array = lead / size
    return distance


@pytest.mark.parametrize("norm", NORMS)
def test_it_finds_a_linear_boundary_within_a_hundredth_of_its_distance(
    norm: NormName,
) -> None:
    images = some_images(8)
    for image, distance in zip(images, nearest(images, norm), strict=True):
        for share, falls in ((1.01, True), (0.999, False)):
            made = create("FAB", eps=share * distance, norm=norm)
            result = made(two_classes(), image[None], [0])
            assert result.success.tolist() == [falls]
            reach = result.linf if norm == "Linf" else result.l2
            if falls:
                assert distance < reach[0] <= 1.01 * distance
            else:
                # It went beyond the boundary, and that does not count.
                np.testing.assert_array_equal(result.images, image[None])
                assert result.iterations.tolist() == [100]


def test_it_finds_the_nearest_answer_where_pixels_clip() -> None:
    kernel = np.random.default_rng(4).normal(0, 1, (6, 3)).astype(np.float32)
    image = np.array([0.02, 0.98, 0.5, 0.05, 0.9, 0.01], np.float32).reshape(1, 2, 3, 1)
    model = linear(kernel)
    label = int(model(image).numpy().argmax())
    others = [target for target in range(3) if target != label]
    found = [nearest_answer(image[0], kernel, target) for target in others]
    distance = min(float(np.linalg.norm(one - image[0])) for one in found)
    for share, falls in ((1.02, True), (0.99, False)):
        made = create("FAB", eps=share * distance, norm="L2")
        result = made(model, image, [label])
        assert result.success.tolist() == [falls]


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_it_fools_nearly_as_many_as_ascents_of_the_loss(
    norm: NormName, digits_classifier: keras.Model, digits_test: Dataset
) -> None:
    images, labels = digits_test.images[:30], digits_test.labels[:30]
    eps = 0.1 if norm == "Linf" else 0.5
    ascent, boundary = (
        create(name, eps=eps, norm=norm)(digits_classifier, images, labels)
        for name in ("APGD-T", "FAB")
    )
    assert 0.1 < ascent.success.mean() < 0.9
    assert abs(int(ascent.success.sum()) - int(boundary.success.sum())) <= 2
