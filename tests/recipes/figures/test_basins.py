import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attractors.analysis import basin_share, is_attractor
from tests.attractors.analysis.cases import decoder, images

CENTRE = images(1)[0]


def hill(points: tf.Tensor) -> tf.Tensor:
    """Rises straight to the centre from everywhere."""
    return -tf.reduce_sum((points - CENTRE) ** 2, axis=[1, 2, 3])


@pytest.mark.parametrize("eps", [0.0, 1e-7, 1e-5, 2.0])
@pytest.mark.parametrize("radius", [0.01, 0.3, 5.0])
def test_a_round_hill_is_an_attractor_for_any_eps(eps: float, radius: float) -> None:
    found = is_attractor(CENTRE, hill, eps, radius, samples=100, batch_size=33)
    assert found.holds
    assert found.share == 1
    np.testing.assert_allclose(found.cosines, 1, atol=1e-6)


def test_a_round_hill_of_many_pixels_is_an_attractor_for_an_eps_of_zero() -> None:
    centre = images(1, shape=(28, 28, 3))[0]

    def rise(points: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_sum((points - centre) ** 2, axis=[1, 2, 3])

    assert is_attractor(centre, rise, 0.0, 0.3).holds


def test_a_hill_that_is_not_quite_round_is_told_by_a_small_eps() -> None:
    # Where one slope is 1 + t of the others', the cosine is 1 - t^2 / 8 at the worst.
    slopes = np.ones_like(CENTRE)
    slopes[0, 0, 0] = 1.01

    def lopsided(points: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_sum(slopes * (points - CENTRE) ** 2, axis=[1, 2, 3])

    assert is_attractor(CENTRE, lopsided, 1.3e-5, 0.3).holds
    assert not is_attractor(CENTRE, lopsided, 0.7e-5, 0.3).holds


def test_a_dip_is_an_attractor_of_the_negative_loss_only() -> None:
    found = is_attractor(CENTRE, lambda points: -hill(points), 0.5, 0.3)
    assert (found.holds, found.share) == (False, 0.0)
    assert found.smallest == pytest.approx(-1, abs=1e-6)


def test_a_slope_attracts_the_half_that_lies_before_the_point() -> None:
    found = is_attractor(
        CENTRE, lambda points: points[:, 0, 0, 0], 1.0, 0.1, samples=2000
    )
    assert not found.holds
    assert found.share == pytest.approx(0.5, abs=0.05)
    # On the sphere in 6 dimensions the mean square of one coordinate is 1/6.
    assert np.mean(found.cosines**2) == pytest.approx(1 / 6, abs=0.02)


def test_a_watermarked_image_attracts_within_its_cell_and_not_beyond() -> None:
    layer = decoder(steps=(3.0,), step_weights=(1.0,), shape=(6, 6, 1))
    x0 = layer.attractors(0.2 + 0.6 * images(1, shape=(6, 6, 1)), [1])[0]

    def distance(points: tf.Tensor) -> tf.Tensor:
        return -layer.distances(points)[:, 1]

    # All slopes are alike, so that the cosine is mean |u| / root mean square of u.
    within = is_attractor(x0, distance, 0.4, 3.0 / 255, samples=500)
    assert within.holds
    assert np.median(within.cosines) == pytest.approx(np.sqrt(2 / np.pi), abs=0.02)
    beyond = is_attractor(x0, distance, 0.4, 0.9, samples=500)
    assert not beyond.holds
    assert abs(np.median(beyond.cosines)) < 0.1


def test_a_flat_loss_attracts_nothing() -> None:
    found = is_attractor(CENTRE, lambda points: tf.zeros(tf.shape(points)[0]), 2.0, 0.1)
    assert (found.holds, found.share) == (False, 0.0)
    assert np.isnan(found.smallest)


def test_the_share_in_a_basin_counts_all_images() -> None:
    cosines = [0.95, 0.1, 0.05, float("nan"), -1.0]
    assert basin_share(cosines, 0.9) == pytest.approx(2 / 5)
    assert basin_share(cosines, 0.05) == pytest.approx(1 / 5)
    assert basin_share(cosines, 2) == pytest.approx(4 / 5)


@pytest.mark.parametrize("eps", [-0.1, 2.1, float("nan")])
def test_an_eps_out_of_range_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match="argument `eps`"):
        is_attractor(CENTRE, hill, eps, 0.1)
    with pytest.raises(ValueError, match="argument `eps`"):
        basin_share([0.5], eps)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="argument `x0`"):
        is_attractor(np.ones((2, 2), int), hill, 0.5, 0.1)
    with pytest.raises(ValueError, match="argument `x0`"):
        is_attractor(np.full((2, 3, 1), np.nan), hill, 0.5, 0.1)
    with pytest.raises(ValueError, match="argument `radius`"):
        is_attractor(CENTRE, hill, 0.5, 0.0)
    with pytest.raises(ValueError, match="argument `samples`"):
        is_attractor(CENTRE, hill, 0.5, 0.1, samples=0)
    with pytest.raises(ValueError, match="argument `cosines`"):
        basin_share([], 0.5)
