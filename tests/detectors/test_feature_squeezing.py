from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.detectors import (
    BitDepth,
    FeatureSqueezing,
    Median,
    NonLocalMeans,
    Squeezer,
    check_detector,
)
from keras_traps.detectors.feature_squeezing import lab_to_rgb, rgb_to_lab
from keras_traps.models import mnist_cnn

SQUEEZERS = (BitDepth(1), Median(2), NonLocalMeans(5, 3, 40.0))


def noise(*shape: int) -> FloatArray:
    return np.random.default_rng(0).random(shape, np.float32)


def gradient_of(squeeze: Squeezer, images: FloatArray) -> FloatArray:
    """The gradient of a weighted sum of what is squeezed."""
    given = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(given)
        total = tf.reduce_sum(squeeze(given) * noise(*images.shape))
    return tape.gradient(total, given).numpy()


def test_pixels_are_rounded_to_the_values_that_bits_can_count() -> None:
    pixels = np.array([0, 0.49, 0.5, 0.51, 1], np.float32).reshape(1, 5, 1, 1)
    found = BitDepth(1)(tf.constant(pixels)).numpy().ravel()
    # Of two values as near the even one.
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 1])
    thirds = np.array([0, 1 / 6 + 0.01, 0.5 + 0.01, 1], np.float32).reshape(1, 4, 1, 1)
    found = BitDepth(2)(tf.constant(thirds)).numpy().ravel()
    np.testing.assert_allclose(found, [0, 1 / 3, 2 / 3, 1], rtol=1e-6)
    levels = (np.arange(256, dtype=np.float32) / 255).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(BitDepth(8)(tf.constant(levels)), levels, atol=1e-7)
    assert len(np.unique(BitDepth(5)(tf.constant(levels)))) == 32


def test_rounding_has_the_gradient_of_the_identity() -> None:
    images = noise(2, 4, 4, 3)
    np.testing.assert_array_equal(gradient_of(BitDepth(1), images), noise(2, 4, 4, 3))


def test_an_even_window_takes_the_upper_median_and_lies_before_its_pixel() -> None:
    image = np.array([[1, 2], [4, 8]], np.float32).reshape(1, 2, 2, 1)
    found = Median(2)(tf.constant(image)).numpy()[0, :, :, 0]
    # {1,1,1,1}, {1,1,2,2}, {1,1,4,4}, {1,2,4,8}: the third of four.
    np.testing.assert_array_equal(found, [[1, 2], [4, 4]])


def test_an_odd_window_takes_the_median() -> None:
    image = np.arange(9, dtype=np.float32)[::-1].reshape(1, 3, 3, 1)
    found = Median(3)(tf.constant(image)).numpy()[0, :, :, 0]
    # In the corner of 8: {8,8,7,8,8,7,5,5,4}.
    assert (found[1, 1], found[0, 0]) == (4, 7)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_medians_are_those_of_scipy(size: int) -> None:
    images = noise(3, 7, 9, 2)
    window = (1, size, size, 1)
    expected = scipy.ndimage.median_filter(images, window, mode="reflect")
    np.testing.assert_array_equal(Median(size)(tf.constant(images)), expected)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        # As tables of colours have them: of these, linear and sRGB are the same.
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.74, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        # Where the cube root is a line: L is 903.3 times the luminance.
        ((0.005, 0.005, 0.005), (4.5165, 0, 0)),
    ],
)
def test_colours_are_those_of_cie_lab(rgb: Any, lab: Any) -> None:
    image = tf.constant(rgb, tf.float32, (1, 1, 1, 3))
    found = rgb_to_lab(image).numpy().ravel() * 255 / [2.55, 1, 1]
    np.testing.assert_allclose(found, lab, atol=0.01)
    with tf.GradientTape() as tape:
        tape.watch(image)
        back = lab_to_rgb(rgb_to_lab(image))
    np.testing.assert_allclose(back.numpy().ravel(), rgb, atol=2e-6)
    slope = tape.batch_jacobian(back, image).numpy().reshape(3, 3)
    np.testing.assert_allclose(slope, np.eye(3), atol=1e-4)


def literal_means(image: Any, squeeze: NonLocalMeans) -> Any:
    """Non-local means as the formula says it, pixel by pixel."""
    if image.shape[-1] == 3:
        lab = rgb_to_lab(tf.constant(image)).numpy()
        parts = [literal_means(one, squeeze) for one in (lab[..., :1], lab[..., 1:])]
        return lab_to_rgb(tf.constant(np.concatenate(parts, axis=-1))).numpy()
    search, patch = squeeze.search // 2, squeeze.patch // 2
    margin = search + patch
    border = ((margin, margin), (margin, margin), (0, 0))
    padded = np.pad(image.astype(np.float64), border, mode="reflect") * 255

    def patch_at(row: int, column: int) -> Any:
        window = slice(row - patch, row + patch + 1)
        return padded[window, column - patch : column + patch + 1]

    found = np.zeros_like(image)
    for row, column in np.ndindex(*image.shape[:2]):
        here, total, weights = (row + margin, column + margin), 0.0, 0.0
        for down, right in np.ndindex(squeeze.search, squeeze.search):
            there = here[0] + down - search, here[1] + right - search
            distance = ((patch_at(*here) - patch_at(*there)) ** 2).mean()
            weight = np.exp(-distance / squeeze.strength**2)
            total, weights = total + weight * padded[there], weights + weight
        found[row, column] = total / weights / 255
    return found


@pytest.mark.parametrize(
    ("squeeze", "channels"),
    [
        (NonLocalMeans(5, 3, 60.0), 3),
        (NonLocalMeans(3, 1, 30.0), 1),
        (NonLocalMeans(1, 3, 2.0), 1),
        (NonLocalMeans(7, 5, 90.0), 2),
    ],
)
def test_non_local_means_are_those_of_the_formula(
    squeeze: NonLocalMeans, channels: int
) -> None:
    images = noise(2, 7, 8, channels)
    expected = [literal_means(image, squeeze) for image in images]
    found = squeeze(tf.constant(images)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_non_local_means_leave_flat_images_and_change_noise() -> None:
    squeeze = NonLocalMeans(13, 3, 2.0)
    # Sums of halves are exact.
    flat = np.full((2, 8, 8, 1), 0.5, np.float32)
    np.testing.assert_array_equal(squeeze(tf.constant(flat)), flat)
    # Noise of a grey level is about as large as the strength: most of it goes.
    noisy = flat + (noise(2, 8, 8, 1) - 0.5) / 128
    assert squeeze(tf.constant(noisy)).numpy().std() < 0.5 * noisy.std()


def test_the_gradient_of_non_local_means_is_that_of_finite_differences() -> None:
    squeeze, images = NonLocalMeans(5, 3, 60.0), noise(2, 6, 7, 3)
    found = gradient_of(squeeze, images)
    direction = np.random.default_rng(1).standard_normal(images.shape)
    step = 1e-5
    weights = noise(*images.shape).astype(np.float64)

    def total(at: Any) -> float:
        means = [literal_means(one.astype(np.float64), squeeze) for one in at]
        return float((np.array(means) * weights).sum())

    ahead, behind = (total(images + way * step * direction) for way in (1, -1))
    slope = (ahead - behind) / (2 * step)
    assert (found * direction).sum() == pytest.approx(slope, rel=1e-3)


def test_the_score_is_the_largest_distance_of_probabilities(
    digits_classifier: keras.Model, digits_test: Dataset
) -> None:
    images = digits_test.images[:20]
    detector = FeatureSqueezing(digits_classifier, output="logits", squeezers=SQUEEZERS)

    def probabilities(images: Any) -> FloatArray:
        return keras.ops.softmax(digits_classifier(images, training=False)).numpy()

    distances = [
        np.abs(probabilities(images) - probabilities(squeeze(tf.constant(images))))
        for squeeze in SQUEEZERS
    ]
    expected = np.sum(distances, axis=2).max(axis=0)
    np.testing.assert_allclose(detector.score(images), expected, atol=1e-5)
    assert 0 <= detector.score(images).min() <= detector.score(images).max() <= 2


def test_it_keeps_what_a_detector_promises(
    digits_classifier: keras.Model, digits_test: Dataset, tmp_path: Path
) -> None:
    images = digits_test.images
    detector = FeatureSqueezing(
        digits_classifier, output="logits", squeezers=SQUEEZERS
    ).fit_threshold(images, 0.05)
    check_detector(detector, images[:10])
    detector.save(tmp_path)
    back = FeatureSqueezing.load(tmp_path, digits_classifier)
    assert back.squeezers == SQUEEZERS
    assert back.threshold() == detector.threshold()
    np.testing.assert_array_equal(back.score(images[:9]), detector.score(images[:9]))
    with pytest.raises(ValueError, match="another classifier"):
        FeatureSqueezing.load(tmp_path, keras.models.clone_model(digits_classifier))


def test_pixels_of_any_range_and_probabilities_have_the_same_score(
    digits_classifier: keras.Model, digits_test: Dataset
) -> None:
    images = digits_test.images[:20]
    image = keras.Input((8, 8, 1))
    answer = digits_classifier(keras.layers.Rescaling(1 / 255)(image))
    other = keras.Model(image, keras.layers.Softmax()(answer))
    expected = FeatureSqueezing(
        digits_classifier, output="logits", squeezers=SQUEEZERS
    ).score(images)
    found = FeatureSqueezing(
        other, output="probabilities", bounds=(0, 255), squeezers=SQUEEZERS
    ).score(255 * images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_presets_are_for_the_images_of_their_data_set(
    digits_classifier: keras.Model,
) -> None:
    mnist = FeatureSqueezing(mnist_cnn(), output="logits", preset="mnist")
    assert mnist.squeezers == (BitDepth(1), Median(2))
    for preset in ("mnist", "cifar10"):
        with pytest.raises(ValueError, match=r"`preset`. Expected one for images"):
            FeatureSqueezing(digits_classifier, output="logits", preset=preset)
    wrong: Any = "imagenet"
    with pytest.raises(ValueError, match=r"`preset`. Expected one of"):
        FeatureSqueezing(digits_classifier, output="logits", preset=wrong)


def test_what_does_not_fit_is_refused(
    digits_classifier: keras.Model, digits_test: Dataset
) -> None:
    def made(**settings: Any) -> FeatureSqueezing:
        return FeatureSqueezing(digits_classifier, output="logits", **settings)

    with pytest.raises(ValueError, match="either squeezers or a `preset`"):
        made()
    with pytest.raises(ValueError, match="either squeezers or a `preset`"):
        made(squeezers=SQUEEZERS, preset="mnist")
    with pytest.raises(TypeError, match=r"`squeezers`. .*Received: int"):
        made(squeezers=[2])
    with pytest.raises(ValueError, match="needs 9 pixels each way"):
        made(squeezers=[NonLocalMeans(15, 3, 2.0)])
    for broken, name in (
        (lambda: BitDepth(0), "bits"),
        (lambda: BitDepth(9), "bits"),
        (lambda: Median(1), "size"),
        (lambda: NonLocalMeans(12, 3, 2.0), "search"),
        (lambda: NonLocalMeans(13, 2, 2.0), "patch"),
        (lambda: NonLocalMeans(13, 3, 0.0), "strength"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            broken()
    detector = made(squeezers=[Median(2)])
    with pytest.raises(ValueError, match="at least 19 clean"):
        detector.fit_threshold(digits_test.images[:18])
    with pytest.raises(ValueError, match=r"`images`. Expected images of shape"):
        detector.score(np.zeros((2, 28, 28, 1), np.float32))
    with pytest.raises(ValueError, match="do not look like probabilities"):
        FeatureSqueezing(
            digits_classifier, output="probabilities", squeezers=[Median(2)]
        )
