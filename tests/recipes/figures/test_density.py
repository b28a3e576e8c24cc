import numpy as np
import pytest
import tensorflow as tf
from scipy.special import betainc

from keras_traps._checks import FloatArray
from keras_traps.attractors.analysis import LocalDensity
from tests.attractors.analysis.cases import images, kernel, linear

DELTA, PIXELS = 0.5, 6
MIDDLE = np.full((1, 2, 3, 1), 0.5, np.float32)


def half_space(offset: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores by which class 1 wins beyond a plane at `offset` from the middle.

    Returns their kernel, their bias and the direction in which class 1 lies.
    """
    normal = np.array([2.0, -1.0, 0.5, 0.0, 1.0, -0.5], np.float32)
    normal /= np.linalg.norm(normal)
    table = np.stack([np.zeros(PIXELS, np.float32), normal], axis=1)
    bias = np.array([0.0, -normal.sum() / 2 - offset], np.float32)
    return table, bias, normal


def share_beyond(offset: float) -> float:
    """The share of a ball of radius DELTA that lies beyond a plane, in closed form."""
    t = offset / DELTA
    tail = 0.5 * float(betainc((PIXELS + 1) / 2, 0.5, 1 - t * t))
    return tail if t >= 0 else 1 - tail


@pytest.mark.parametrize("offset", [-0.3, -0.05, 0.0, 0.1, 0.35])
def test_the_density_of_a_half_space_is_the_share_of_the_ball(offset: float) -> None:
    table, bias, _ = half_space(offset)
    local = LocalDensity(linear(table, bias), (2, 3, 1), delta=DELTA, samples=20_000)
    found = local.density(MIDDLE, [1])
    expected = share_beyond(offset)
    error = np.sqrt(expected * (1 - expected) / 20_000)
    assert found.standard_error[0] == pytest.approx(error, rel=0.1)
    assert abs(found.value[0] - expected) < 4 * error
    other = local.density(MIDDLE, [0])
    np.testing.assert_allclose(other.value + found.value, 1, atol=1e-6)


@pytest.mark.parametrize("offset", [-0.2, 0.0, 0.1, 0.3])
def test_the_gradient_is_that_of_the_density_within_its_standard_error(
    offset: float,
) -> None:
    table, bias, normal = half_space(offset)
    local = LocalDensity(linear(table, bias), (2, 3, 1), delta=DELTA, samples=40_000)
    found = local.gradient(MIDDLE, [1])
    # The closed form's finite difference: moving x by h moves the plane by -h.
    h = 1e-4
    slope = (share_beyond(offset - h) - share_beyond(offset + h)) / (2 * h)
    distance = np.linalg.norm(found.value.reshape(PIXELS) - slope * normal)
    assert found.standard_error[0] < 0.1 * slope
    assert distance < 2.5 * found.standard_error[0]


def test_the_gradient_agrees_with_differences_of_estimated_densities() -> None:
    scores = linear(kernel(seed=4))
    local = LocalDensity(scores, (2, 3, 1), delta=DELTA, samples=200_000, seed=1)
    x, h = images(1, seed=8), 0.1
    gradient = local.gradient(x, [2])
    direction = np.eye(PIXELS, dtype=np.float32).reshape(PIXELS, 2, 3, 1)
    ends = [np.clip(x + sign * h * direction, 0, 1) for sign in (1, -1)]
    above, below = (local.density(end, [2] * PIXELS) for end in ends)
    width = (ends[0] - ends[1]).reshape(PIXELS, PIXELS).sum(axis=1)
    slopes = (above.value - below.value) / width
    error = np.hypot(above.standard_error, below.standard_error) / width
    apart = np.abs(slopes - gradient.value.reshape(PIXELS))
    # The third derivative adds a little of the order h^2.
    assert (apart < 4 * error + gradient.standard_error + 0.02).all()
    assert np.abs(gradient.value).max() > 0.2


def test_repeated_estimates_spread_by_the_standard_error_around_the_truth() -> None:
    table, bias, normal = half_space(0.2)
    local = LocalDensity(linear(table, bias), (2, 3, 1), delta=DELTA, samples=60)
    # Every image has points of its own.
    found = local.gradient(np.repeat(MIDDLE, 400, axis=0), [1] * 400)
    values = found.value.reshape(400, PIXELS)
    spread = np.sqrt(values.var(axis=0, ddof=1).sum())
    stated = np.sqrt(np.mean(found.standard_error**2))
    assert stated == pytest.approx(spread, rel=0.05)
    expected = np.mean(values, axis=0)
    h = 1e-4
    slope = (share_beyond(0.2 - h) - share_beyond(0.2 + h)) / (2 * h)
    assert np.linalg.norm(expected - slope * normal) < 2.5 * spread / np.sqrt(400)


def test_several_models_meet_the_same_points() -> None:
    first, second = linear(kernel(seed=4)), linear(kernel(seed=5))

    def both(batch: tf.Tensor) -> tf.Tensor:
        return tf.stack([first(batch), second(batch)], axis=1)

    x, t = images(3), [0, 1, 2]
    together = LocalDensity(both, (2, 3, 1), delta=DELTA, samples=500)
    alone = [
        LocalDensity(one, (2, 3, 1), delta=DELTA, samples=500)
        for one in (first, second)
    ]
    for name in ("density", "gradient"):
        pair = getattr(together, name)(x, t)
        assert pair.hits.shape == pair.standard_error.shape == (3, 2)
        for i, one in enumerate(alone):
            single = getattr(one, name)(x, t)
            np.testing.assert_allclose(pair.value[:, i], single.value, atol=1e-4)


@pytest.mark.parametrize("samples", [70, 300])
def test_an_estimate_does_not_depend_on_the_batch_size(samples: int) -> None:
    x, t = images(6), np.arange(6) % 3
    first, *others = (
        LocalDensity(
            linear(kernel(seed=4)),
            (2, 3, 1),
            delta=DELTA,
            samples=samples,
            batch_size=batch_size,
        )
        for batch_size in (256, 16, 69, 1000)
    )
    for name in ("density", "gradient"):
        expected = getattr(first, name)(x, t)
        assert ((expected.hits > 0) & (expected.hits < 1)).sum() > 3
        for other in others:
            found = getattr(other, name)(x, t)
            np.testing.assert_array_equal(found.hits, expected.hits)
            np.testing.assert_allclose(found.value, expected.value, atol=1e-5)


def test_no_more_points_are_scored_at_once_than_asked_for() -> None:
    sizes = []

    def scores(batch: tf.Tensor) -> tf.Tensor:
        tf.py_function(lambda size: sizes.append(int(size)), [tf.shape(batch)[0]], [])
        return linear(kernel())(batch)

    local = LocalDensity(scores, (2, 3, 1), delta=DELTA, samples=300, batch_size=100)
    local.density(MIDDLE, [1])
    assert sorted(sizes) == [44, 56, 100, 100]


def test_an_estimate_does_not_depend_on_the_other_images() -> None:
    scores, x = linear(kernel(seed=4)), images(40)
    t = np.arange(40) % 3
    whole = LocalDensity(scores, (2, 3, 1), delta=DELTA, samples=70, batch_size=70)
    found = whole.gradient(x, t)
    assert whole.gradient(x[:5], t[:5]).value.tolist() == found.value[:5].tolist()
    met = (found.hits > 0) & (found.hits < 1)
    assert met.sum() > 20
    assert len(np.unique(found.value[met].reshape(met.sum(), -1), axis=0)) == met.sum()


def test_points_that_do_not_fill_the_last_batch_are_not_counted() -> None:
    always = linear(np.zeros((PIXELS, 3), np.float32), np.array([0, 1, 0], np.float32))
    local = LocalDensity(always, (2, 3, 1), delta=1.0, samples=50, batch_size=32)
    for estimate in (local.density(MIDDLE, [1]), local.gradient(MIDDLE, [1])):
        assert estimate.hits.tolist() == [1.0]
        assert estimate.standard_error.tolist() == [0.0]
    assert local.gradient(MIDDLE, [1]).value == pytest.approx(0, abs=1e-5)
    assert local.density(MIDDLE, [2]).value.tolist() == [0.0]


def test_the_scores_are_traced_once() -> None:
    calls = []

    def scores(batch: tf.Tensor) -> tf.Tensor:
        calls.append(batch.shape)
        return linear(kernel())(batch)

    local = LocalDensity(scores, (2, 3, 1), delta=DELTA, samples=40, batch_size=16)
    local.density(images(35), [0] * 35)
    local.gradient(images(3), [0] * 3)
    assert len(calls) == 1


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_that_is_not_above_zero_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="argument `delta`"):
        LocalDensity(linear(kernel()), (2, 3, 1), delta=delta, samples=10)


@pytest.mark.parametrize("samples", [0, 1, -5, 2.5])
def test_too_few_samples_are_refused(samples: int) -> None:
    with pytest.raises(ValueError, match="argument `samples`"):
        LocalDensity(linear(kernel()), (2, 3, 1), delta=1.0, samples=samples)


def test_what_does_not_fit_is_refused() -> None:
    local = LocalDensity(linear(kernel()), (2, 3, 1), delta=1.0, samples=4)
    with pytest.raises(ValueError, match="argument `images`"):
        local.density(images(2, shape=(3, 3, 1)), [0, 0])
    with pytest.raises(ValueError, match="argument `classes`"):
        local.gradient(images(2), [0, 3])
    with pytest.raises(ValueError, match="at least one image"):
        local.density(images(0), [])
    with pytest.raises(ValueError, match="argument `scores`"):
        LocalDensity(lambda x: x, (2, 3, 1), delta=1.0, samples=4)
