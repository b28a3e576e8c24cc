import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps import ops
from tests.ops import reference

SHAPES = [(9,), (4, 3), (3, 3, 2), (2, 2, 1, 3)]


def random_images(
    seed: int, shape: tuple[int, ...], count: int = 3
) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 255, (count, *shape)).astype(np.float32)
    images.ravel()[::4] = rng.choice([0, 255, 64, 1.5], images.ravel()[::4].shape)
    return images


def nearest_level(x: float, bit: int, step: float) -> float:
    """By trying: the nearest codeword in [0, 255], or the end nearest to one."""
    words = reference.codewords(bit, step, 0, 255)
    inside = words[(words >= 0) & (words <= 255)]
    if len(inside):
        return float(inside[np.abs(inside - x).argmin()])
    gaps = [np.abs(words - end).min() for end in (0.0, 255.0)]
    return (0.0, 255.0)[int(np.argmin(gaps))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [3.0, 7.5, 64.0, 128.0, 170.0, 171.0, 254.0, 256.0])
def test_the_image_is_the_nearest_that_holds_the_message(
    step: float, shape: tuple[int, ...]
) -> None:
    images = random_images(1, shape)
    pixels = int(np.prod(shape))
    message = np.random.default_rng(2).integers(0, 2, pixels, np.uint8)
    steps = np.full(pixels, step, np.float32)
    result = ops.qim_embed(images, message, steps).image.numpy()

    assert result.shape == images.shape
    assert (result.min(), result.max()) >= (0, 0)
    assert result.max() <= 255
    flat, moved = images.reshape(-1, pixels), result.reshape(-1, pixels)
    for (image, pixel), x in np.ndenumerate(flat):
        expected = nearest_level(float(x), int(message[pixel]), step)
        # At a cell's border two codewords are equally near.
        assert abs(moved[image, pixel] - x) == pytest.approx(
            abs(expected - x), abs=1e-4
        )
        end = pytest.approx(expected, abs=1e-4)
        assert moved[image, pixel] == end or abs(x - expected) == pytest.approx(
            step, abs=1e-4
        )


@pytest.mark.parametrize("seed", range(4))
def test_the_image_decodes_to_distance_0(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = random_images(seed, (6, 5))
    messages = rng.integers(0, 2, (4, 30), np.uint8)
    # Up to 170 grey levels, each bit has a codeword in [0, 255].
    steps = rng.choice([3.0, 128.0, 41.7, 170.0], 30).astype(np.float32)
    weights = tf.ones(30)
    for label, message in enumerate(messages):
        image = ops.qim_embed(images, message, steps).image
        result = ops.qim_distance(image, messages, steps, weights).numpy()
        np.testing.assert_allclose(result[:, label], 0, atol=2e-3)
        assert (np.delete(result, label, axis=1) > steps.min()).all()


@pytest.mark.parametrize(
    ("x", "bit", "step", "expected"),
    [
        (0, 0, 3, 1.5),
        (0, 1, 3, 4.5),
        (255, 0, 3, 253.5),
        (255, 1, 3, 250.5),
        (0, 0, 128, 64),
        (255, 0, 128, 64),
        (0, 1, 128, 192),
        (255, 1, 128, 192),
        (64, 0, 128, 64),
        (190, 1, 128, 192),
        (200, 1, 200, 255),
        (10, 1, 200, 255),
        (10, 0, 510, 255),
        (200, 0, 510, 255),
        (250, 0, 400, 200),
        (250, 1, 400, 0),
        (7, 0, 2000, 255),
        (7, 1, 2000, 0),
    ],
)
def test_a_pixel_goes_where_the_paper_says(
    x: float, bit: int, step: float, expected: float
) -> None:
    result = ops.qim_embed(
        tf.constant([[x]], tf.float32), [bit], tf.constant([step], tf.float32)
    )
    assert result.image.numpy() == expected
    assert result.distance.numpy() == abs(expected - x)


def test_each_image_may_have_a_message_of_its_own() -> None:
    images = random_images(3, (4, 4))
    messages = np.random.default_rng(4).integers(0, 2, (3, 16), np.uint8)
    steps = np.resize(np.array([3, 128], np.float32), 16)
    together = ops.qim_embed(images, messages, steps)
    for i in range(3):
        alone = ops.qim_embed(images[i : i + 1], messages[i], steps)
        np.testing.assert_array_equal(together.image[i], alone.image[0])
        np.testing.assert_allclose(together.distance[i], alone.distance[0], rtol=1e-6)


def test_distance_is_that_of_the_images() -> None:
    images = random_images(5, (5, 5, 3))
    message = np.random.default_rng(6).integers(0, 2, 75, np.uint8)
    steps = np.resize(np.array([3, 128], np.float32), 75)
    result = ops.qim_embed(images, message, steps)
    moved = (result.image.numpy() - images).astype(np.float64).reshape(3, -1)
    assert result.distance.shape == (3,)
    np.testing.assert_allclose(
        result.distance, np.linalg.norm(moved, axis=1), rtol=1e-6
    )


def test_an_image_that_holds_the_message_stays() -> None:
    images = random_images(7, (6, 6))
    message = np.random.default_rng(8).integers(0, 2, 36, np.uint8)
    steps = np.resize(np.array([3, 128], np.float32), 36)
    once = ops.qim_embed(images, message, steps)
    again = ops.qim_embed(once.image, message, steps)
    np.testing.assert_array_equal(again.image, once.image)
    np.testing.assert_array_equal(again.distance, 0)
