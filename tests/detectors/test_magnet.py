from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.spatial.distance
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.detectors import MagNet, check_detector
from keras_traps.detectors.magnet import (
    _knots,
    _surprise,
    autoencoder,
    jensen_shannon,
)
from keras_traps.models import mnist_cnn


def divergence(p: list[float], q: list[float]) -> float:
    rows = (tf.constant([one], tf.float32) for one in (p, q))
    return float(jensen_shannon(*rows)[0])


def test_the_divergence_is_that_of_known_distributions() -> None:
    assert divergence([1, 0], [0, 1]) == pytest.approx(np.log(2), rel=1e-5)
    assert divergence([0.3, 0.7], [0.3, 0.7]) == 0
    assert divergence([1, 0, 0], [0.5, 0.5, 0]) == pytest.approx(
        # 1/2 log(4/3) + 1/4 log(2/3) + 1/4 log(2)
        0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3) + 0.25 * np.log(2),
        # Where a class has no probability at all, r is cut 1e-7 short of 1.
        rel=1e-5,
    )
    assert divergence([0.1, 0.9], [0.4, 0.6]) == divergence([0.4, 0.6], [0.1, 0.9])


def test_the_divergence_of_close_distributions_is_not_lost_in_rounding() -> None:
    p = np.array([0.2, 0.3, 0.5])
    q = p + 1e-4 * np.array([1, 1, -2])
    expected = scipy.spatial.distance.jensenshannon(p, q) ** 2
    assert expected < 3e-8
    assert divergence(list(p), list(q)) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("rows", [([1, 0], [0, 1]), ([0.5, 0.5], [0.5, 0.5])])
def test_the_divergence_has_a_finite_gradient_everywhere(rows: Any) -> None:
    p, q = (tf.constant([one], tf.float32) for one in rows)
    with tf.GradientTape() as tape:
        tape.watch(p)
        found = jensen_shannon(p, q)
    assert np.isfinite(tape.gradient(found, p)).all()


def surprises(clean: FloatArray, marks: list[float]) -> FloatArray:
    ranked = _knots(np.sort(clean)[:, None])
    return _surprise(tf.constant(marks, tf.float32), ranked[0], ranked[1]).numpy()


def test_a_surprise_is_the_logarithm_of_the_share_of_larger_clean_marks() -> None:
    clean = np.arange(1, 1000, dtype=np.float32)
    found = surprises(clean, [0, 500, 900, 990, 999, 9990])
    expected = -np.log([1, 0.5, 0.1, 0.01, 0.001, 0.0001])
    # Between 64 ranks it is linear.
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert found[0] == 0
    # Behind the last by the logarithm of how many times that a mark is.
    assert found[5] - found[4] == pytest.approx(np.log(10), rel=1e-5)


def test_surprises_rise_with_marks_also_where_clean_ones_are_alike() -> None:
    clean = np.repeat(np.array([0, 0.5, 2], np.float32), 40)
    found = surprises(clean, [0, 0.25, 0.5, 1, 2, 3])
    assert (np.diff(found) > 0).all()
    # Of 121 places 80 are up to 0.5, and all but one up to 2.
    np.testing.assert_allclose(np.exp(-found[[2, 4]]), [41 / 121, 1 / 121], rtol=0.04)


def test_an_autoencoder_is_its_blocks_and_their_mirror_image() -> None:
    pooled = autoencoder((28, 28, 1), (3, "average", 3))
    kinds = [type(layer).__name__ for layer in pooled.layers[1:]]
    middle = ["Conv2D", "UpSampling2D", "Conv2D"]
    assert kinds == ["Conv2D", "AveragePooling2D", "Conv2D", *middle, "Conv2D"]
    # 1 to 3 filters: 30; 3 to 3, three times: 84; 3 to 1: 28.
    assert pooled.count_params() == 30 + 3 * 84 + 28
    assert pooled.output_shape == (None, 28, 28, 1)
    assert autoencoder((5, 7, 3), (3,)).count_params() == 3 * 84


@pytest.fixture(scope="module")
def magnet(digits_classifier: keras.Model, digits_train: Dataset) -> MagNet:
    return MagNet(digits_classifier, output="logits").fit(digits_train.images)


def test_it_keeps_what_a_detector_promises(
    magnet: MagNet, digits_classifier: keras.Model, digits_test: Dataset, tmp_path: Path
) -> None:
    images = digits_test.images
    magnet.fit_threshold(images[:400], 0.05).fit_threshold(images[:400], 0.01)
    check_detector(magnet, images[400:420])
    magnet.save(tmp_path)
    back = MagNet.load(tmp_path, digits_classifier)
    assert back.fprs == (0.05, 0.01)
    assert [back.threshold(one) for one in back.fprs] == [
        magnet.threshold(one) for one in back.fprs
    ]
    np.testing.assert_array_equal(back.score(images[:9]), magnet.score(images[:9]))
    np.testing.assert_array_equal(back.reform(images[:9]), magnet.reform(images[:9]))
    with pytest.raises(ValueError, match="another classifier"):
        MagNet.load(tmp_path, keras.models.clone_model(digits_classifier))


def test_the_same_seed_gives_the_same_detector(
    digits_classifier: keras.Model, digits_train: Dataset
) -> None:
    images = digits_train.images[:60]
    one, again = (
        MagNet(digits_classifier, output="logits").fit(images, seed=1).score(images)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, again)


def blurring(shape: tuple[int, ...], blocks: Any) -> keras.Model:
    """Reproduces what is smooth: a mean of three by three, which hardly learns."""
    mean = keras.layers.Conv2D(
        shape[-1],
        3,
        padding="same",
        kernel_initializer=keras.initializers.Constant(1 / 9),
    )
    image = keras.Input(shape)
    return keras.Model(image, mean(image))


def test_what_is_not_reproduced_is_flagged_and_clean_images_as_often_as_asked(
    digits_classifier: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras_traps.detectors.magnet.autoencoder", blurring)
    levels = np.random.default_rng(0).random((1500, 1, 1, 1), np.float32)
    smooth = levels * np.ones((1, 8, 8, 1), np.float32)
    learnt, held, rest = np.split(smooth, [500, 1000])
    detector = MagNet(digits_classifier, output="logits").fit(learnt)
    detector.fit_threshold(held, 0.05)
    board = (np.indices((8, 8)).sum(axis=0) % 2).astype(np.float32)[:, :, None]
    rough = rest[rest[:, 0, 0, 0] > 0.5] * board
    assert detector.detect(rough).is_adversarial.all()
    # Of 500, each with a rate that 500 others set: the mean and three deviations.
    assert detector.detect(rest).is_adversarial.mean() < 0.05 + 3 * 0.0138


def test_the_marks_are_errors_and_divergences_of_every_autoencoder(
    digits_classifier: keras.Model, digits_train: Dataset
) -> None:
    image = keras.Input((8, 8, 3))
    grey = keras.layers.Lambda(lambda x: x[..., :1], output_shape=(8, 8, 1))(image)
    coloured = keras.Model(image, digits_classifier(grey))
    images = np.repeat(digits_train.images[:40], 3, axis=-1)
    detector = MagNet(coloured, output="logits").fit(images)
    marks = detector._marks(tf.constant(images)).numpy()
    assert marks.shape == (40, 3)
    reformed = detector.reform(images)
    expected = np.abs(images - reformed).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(marks[:, 0], expected, rtol=1e-4)
    for column, temperature in ((1, 10), (2, 40)):
        p, q = (
            keras.ops.softmax(coloured(one, training=False) / temperature).numpy()
            for one in (images, reformed)
        )
        expected = scipy.spatial.distance.jensenshannon(p, q, axis=1) ** 2
        np.testing.assert_allclose(marks[:, column], expected, rtol=1e-2, atol=1e-7)


def test_images_of_any_range_are_reformed_within_it(
    digits_classifier: keras.Model, digits_train: Dataset
) -> None:
    image = keras.Input((8, 8, 1))
    of_levels = keras.layers.Rescaling(1 / 255)(image)
    other = keras.Model(image, digits_classifier(of_levels))
    images = 255 * digits_train.images[:60]
    detector = MagNet(other, output="logits", bounds=(0, 255)).fit(images)
    reformed = detector.reform(images)
    assert reformed.shape == images.shape
    assert 0 <= reformed.min() < reformed.max() <= 255
    assert reformed.max() > 2


def test_what_does_not_fit_is_refused(
    magnet: MagNet, digits_classifier: keras.Model, digits_test: Dataset, tmp_path: Path
) -> None:
    empty = MagNet(digits_classifier, output="logits")
    for ask in (
        lambda: empty.score(digits_test.images),
        lambda: empty.reform(digits_test.images),
        lambda: empty.save(tmp_path),
    ):
        with pytest.raises(RuntimeError, match="call `fit` first"):
            ask()
    with pytest.raises(ValueError, match="at least 40 images"):
        empty.fit(digits_test.images[:39])
    with pytest.raises(ValueError, match=r"`images`. Expected images of shape"):
        empty.fit(np.zeros((50, 28, 28, 1), np.float32))
    with pytest.raises(ValueError, match=r"`images`. Expected images of shape"):
        magnet.score(np.zeros((2, 28, 28, 1), np.float32))
    with pytest.raises(ValueError, match="at least 19 clean"):
        magnet.fit_threshold(digits_test.images[:18])
    assert MagNet(mnist_cnn(), output="logits", preset="mnist").preset == "mnist"
    for preset in ("mnist", "cifar10"):
        with pytest.raises(ValueError, match=r"`preset`. Expected one for images"):
            MagNet(digits_classifier, output="logits", preset=preset)
