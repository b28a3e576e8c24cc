import numpy as np
import pytest
import tensorflow as tf

from keras_traps.layers import QIMDecoder
from keras_traps.ops import border_factors


@pytest.mark.parametrize("shape", [(1,), (9,), (5, 7), (28, 28, 1), (2, 3, 2, 2)])
def test_a_weight_of_1_leaves_every_pixel_as_it_is(shape: tuple[int, ...]) -> None:
    factors = border_factors(shape, 1.0)
    np.testing.assert_array_equal(factors, np.ones(np.prod(shape)))
    assert factors.dtype == np.float32


@pytest.mark.parametrize("border_weight", [1e-3, 0.25, 3.0, np.float32(1e3)])
@pytest.mark.parametrize(
    "shape", [(32,), (9, 11), (32, 32, 3), (7, 6, 2, 2), (4, 4), (1, 1), (3, 28, 28)]
)
def test_factors_have_a_mean_of_1(shape: tuple[int, ...], border_weight: float) -> None:
    factors = border_factors(shape, border_weight)
    assert factors.shape == (np.prod(shape),)
    assert factors.mean() == pytest.approx(1.0, rel=1e-5)
    assert factors.min() > 0


def test_the_border_has_its_weight_beside_the_middle() -> None:
    # Of five blocks along each axis, one lies in the very middle.
    image = border_factors((10, 10, 3), 3.0).reshape(10, 10, 3)
    by_ring = image[:, :, 1] / image[5, 5, 1]
    edge = [3, 3, 2, 2, 1, 1, 2, 2, 3, 3]
    expected = np.maximum(np.array(edge)[:, None], edge)
    np.testing.assert_allclose(by_ring, expected, rtol=1e-6)
    np.testing.assert_array_equal(image[:, :, 0], image[:, :, 2])


def test_an_image_of_one_axis_has_its_border_at_both_ends() -> None:
    factors = border_factors((18,), 5.0)
    blocks = [5] * 4 + [3] * 4 + [1] * 4 + [3] * 4 + [5] * 2
    np.testing.assert_allclose(factors / factors.min(), blocks, rtol=1e-6)


def test_a_weight_below_1_prefers_the_middle() -> None:
    image = border_factors((12, 12), 0.5).reshape(12, 12)
    assert image[5, 6] > image[2, 6] > image[0, 6]


@pytest.mark.parametrize("shape", [(4, 4), (2, 2, 3), (8,)])
def test_an_image_without_a_middle_has_no_border(shape: tuple[int, ...]) -> None:
    assert (border_factors(shape, 3.0) == 1).all()


def test_an_axis_without_a_middle_does_not_count() -> None:
    image = border_factors((4, 10), 3.0).reshape(4, 10)
    np.testing.assert_allclose(image[3] / image[0, 5], [3, 3, 2, 2, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(image[0], image[3])


@pytest.mark.parametrize("border_weight", [0, 9e-4, 1001, -1.0, np.nan, "3", None])
def test_a_weight_out_of_its_range_is_refused(border_weight: object) -> None:
    with pytest.raises(ValueError, match=r"border_weight`.*from 0\.001 to 1000"):
        border_factors((4, 4), border_weight)  # type: ignore[arg-type]


def test_a_shape_without_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        border_factors((), 3.0)


def test_the_steepest_pixels_of_a_trap_lie_at_the_border() -> None:
    images = np.random.default_rng(0).uniform(0.1, 0.9, (20, 16, 16, 1))
    grey = tf.constant(images.astype(np.float32))

    def share_at_the_border(border_weight: float) -> float:
        decoder = QIMDecoder.from_seed(
            0,
            num_classes=3,
            shape=(16, 16, 1),
            step_weights=(9.0, 1.0),
            a0=-1e-4,
            a1=-0.9,
            border_weight=border_weight,
        )
        with tf.GradientTape() as tape:
            tape.watch(grey)
            one = decoder(grey)[:, 1]
        slopes = np.abs(tape.gradient(one, grey)).reshape(20, -1)
        # Where all are as steep, any may be first.
        order = np.random.default_rng(1).permutation(256)
        steepest = order[np.argsort(-slopes[:, order], axis=1, kind="stable")[:, :30]]
        middle = np.zeros((16, 16), bool)
        middle[2:-2, 2:-2] = True
        return float(1 - middle.ravel()[steepest].mean())

    assert share_at_the_border(3.0) == 1.0
    assert share_at_the_border(1.0) < 0.7
