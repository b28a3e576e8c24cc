import numpy as np
import pytest

from keras_traps._pixels import from_unit, pixels_of_levels, to_unit


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (-0.1, 0.9)])
def test_grey_levels_are_spread_over_the_bounds(bounds: tuple[float, float]) -> None:
    low, high = bounds
    pixels = pixels_of_levels(bounds)
    assert pixels.dtype == np.float32
    assert (pixels[0], pixels[255]) == (np.float32(low), np.float32(high))
    np.testing.assert_allclose(pixels, np.linspace(low, high, 256), rtol=0, atol=2e-7)
    levels = np.arange(256, dtype=np.float32)
    expected = {(0.0, 1.0): levels / 255, (0.0, 255.0): levels}
    if bounds in expected:
        np.testing.assert_array_equal(pixels, expected[bounds])


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (-0.1, 0.9)])
def test_shares_of_a_range_come_back_and_stay_in_it(
    bounds: tuple[float, float],
) -> None:
    low, high = map(np.float32, bounds)
    shares = np.random.default_rng(0).random(1000, np.float32)
    shares[:2] = 0, 1
    pixels = from_unit(shares, bounds)
    assert (pixels[0], pixels[1]) == (low, high)
    assert low <= pixels.min() <= pixels.max() <= high
    np.testing.assert_allclose(to_unit(pixels, bounds), shares, atol=1e-6)
