import numpy as np
import pytest
import tensorflow as tf

from keras_traps.luring.augmentation import Augmentation, augment, turn_and_shift

SEED = tf.constant([3, 5], tf.int64)


@pytest.fixture
def pictures() -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).random((5, 8, 6, 3), np.float32))


def test_no_turn_and_no_shift_change_nothing(pictures: tf.Tensor) -> None:
    moved = turn_and_shift(pictures, SEED, rotation=0.0, shift=0.0)
    np.testing.assert_array_equal(moved, pictures)


def test_the_same_seed_gives_the_same_images(pictures: tf.Tensor) -> None:
    first, again, other = (
        turn_and_shift(pictures, seed, rotation=10.0, shift=0.2)
        for seed in (SEED, SEED, SEED + 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert first.shape == pictures.shape
    assert first.dtype == tf.float32


def _draws(count: int) -> np.ndarray:
    return tf.random.stateless_uniform((count, 3), SEED, -1.0, 1.0).numpy()


@pytest.mark.parametrize(("axis", "size"), [(1, 8), (2, 6)])
def test_a_shift_of_one_pixel_moves_by_one_pixel(
    pictures: tf.Tensor, axis: int, size: int
) -> None:
    """The draw is read here, so that the shift can be scaled to a whole pixel."""
    drawn = _draws(5)[0, axis]
    # Along the other axis the same shift is not whole: an image that is alike there.
    other = 3 - axis
    alike = tf.repeat(tf.reduce_mean(pictures[:1], other, keepdims=True), size, other)
    moved = turn_and_shift(alike, SEED, rotation=0.0, shift=abs(1 / (drawn * size)))
    rows, expected = (np.moveaxis(part[0], axis - 1, 0) for part in (moved, alike))
    if drawn > 0:
        expected = np.concatenate([expected[1:], expected[-1:]])
    else:
        expected = np.concatenate([expected[:1], expected[:-1]])
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_what_comes_in_repeats_the_border() -> None:
    # Brightness 1 at the border and 0 inside: a shift never shows black outside.
    image = np.zeros((1, 8, 8, 1), np.float32)
    image[:, [0, -1]] = image[:, :, [0, -1]] = 1
    moved = turn_and_shift(tf.constant(image), SEED, rotation=0.0, shift=0.25).numpy()
    assert moved[0, [0, -1]].max() == 1
    whole = turn_and_shift(tf.ones((4, 8, 8, 1)), SEED, rotation=45.0, shift=0.5)
    np.testing.assert_allclose(whole, np.ones((4, 8, 8, 1)), rtol=1e-6)


def test_a_turn_keeps_the_centre_and_turns_by_the_drawn_angle() -> None:
    drawn = _draws(1)[0, 0]
    size = 9
    image = np.random.default_rng(1).random((1, size, size, 1), np.float32)
    # A right angle is a turn without interpolation.
    moved = turn_and_shift(
        tf.constant(image), SEED, rotation=abs(90 / drawn), shift=0.0
    ).numpy()
    turns = [np.rot90(image[0], times) for times in (1, -1)]
    nearest = min(np.abs(moved[0] - turn).max() for turn in turns)
    assert nearest < 1e-4
    assert moved[0, 4, 4, 0] == pytest.approx(image[0, 4, 4, 0], abs=1e-5)


def test_no_image_is_moved_further_than_asked(pictures: tf.Tensor) -> None:
    """A bright line two pixels from the edge stays in sight of a shift of one."""
    image = np.zeros((64, 8, 8, 1), np.float32)
    image[:, 4] = 1
    moved = turn_and_shift(tf.constant(image), SEED, rotation=0.0, shift=1 / 8).numpy()
    profile = moved[:, :, 0, 0]
    centre = (profile * np.arange(8)).sum(axis=1) / profile.sum(axis=1)
    assert np.abs(centre - 4).max() <= 1 + 1e-4
    # Of 64 draws some come near the end of the range, either way.
    assert centre.max() > 4.8
    assert centre.min() < 3.2


def test_it_runs_in_a_graph_of_any_batch_size(pictures: tf.Tensor) -> None:
    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, None, 3)),
            tf.TensorSpec((2,), tf.int64),
        ]
    )
    def graph(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return turn_and_shift(images, seed, rotation=10.0, shift=0.1)

    for count in (1, 5):
        eager = turn_and_shift(pictures[:count], SEED, rotation=10.0, shift=0.1)
        np.testing.assert_allclose(graph(pictures[:count], SEED), eager, atol=1e-5)


def batches_of(pictures: tf.Tensor) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors((pictures, tf.range(5))).repeat(4)


def test_each_batch_is_moved_by_its_number(pictures: tf.Tensor) -> None:
    data, moves = batches_of(pictures), Augmentation(rotation=10.0, shift=0.2)
    whole = [images.numpy() for images, _ in augment(data, moves, seed=1)]
    rest = [
        images.numpy() for images, _ in augment(data.skip(2), moves, seed=1, first=2)
    ]
    np.testing.assert_array_equal(whole[2:], rest)
    drawn = [pictures.numpy(), *whole]
    assert not any(
        np.array_equal(a, b) for i, a in enumerate(drawn) for b in drawn[i + 1 :]
    )
    for _, told in augment(data, moves, seed=1):
        np.testing.assert_array_equal(told, np.arange(5))


def test_images_alone_are_moved_alike(pictures: tf.Tensor) -> None:
    moves = Augmentation(rotation=10.0, shift=0.2)
    pairs = augment(batches_of(pictures), moves, seed=1)
    alone = augment(batches_of(pictures).map(lambda x, _: x), moves, seed=1)
    for (expected, _), images in zip(pairs, alone, strict=True):
        np.testing.assert_array_equal(images, expected)


def test_nothing_to_move_leaves_the_data_as_they_are(pictures: tf.Tensor) -> None:
    data = batches_of(pictures)
    assert augment(data, Augmentation(), seed=1) is data
    assert Augmentation(rotation=1.0)
    assert Augmentation(shift=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation", -1.0), ("shift", -0.1), ("shift", 1.0), ("shift", float("nan"))],
)
def test_an_impossible_move_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"argument `{name}`.*Received"):
        Augmentation(**{name: value})
