from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import attacks
from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.detectors import LID, check_detector
from keras_traps.detectors.lid import local_dimensionality, with_noise


def estimate(points: Any, reference: Any, k: int = 20) -> FloatArray:
    found = local_dimensionality(
        tf.constant(points, tf.float32), tf.constant(reference, tf.float32), k
    )
    return found.numpy()


def test_the_estimate_is_that_of_the_formula() -> None:
    reference = np.array([[1.0], [-2.0], [4.0], [9.0]])
    # Distances 1, 2 and 4: log(1/4) + log(2/4) + log(4/4) is -3 log 2.
    assert estimate([[0.0]], reference, 3) == pytest.approx(1 / np.log(2), rel=1e-6)
    assert estimate([[5e3]], reference + 5e3, 3) == pytest.approx(
        1 / np.log(2), rel=1e-6
    )


@pytest.mark.parametrize("dimensions", [1, 2, 5, 10])
def test_the_estimate_is_the_dimension_of_a_ball(dimensions: int) -> None:
    generator = np.random.default_rng(0)
    count, k = 20_000, 200
    directions = generator.standard_normal((count, dimensions))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = generator.random((count, 1)) ** (1 / dimensions)
    # In a space of more dimensions, turned at random.
    turned = np.linalg.qr(generator.standard_normal((30, 30)))[0][:dimensions]
    found = estimate(np.zeros((1, 30)), directions * radii @ turned, k)
    # Of k distances its relative standard deviation is 1 / sqrt(k): three of them.
    assert found == pytest.approx(dimensions, rel=3 / np.sqrt(k))


def test_images_of_reference_and_equally_far_ones_have_finite_estimates() -> None:
    reference = np.vstack([np.eye(30), np.zeros((25, 30))])
    points = tf.constant(np.vstack([np.zeros(30), np.eye(30)[0], np.ones(30)]))
    with tf.GradientTape() as tape:
        tape.watch(points)
        found = local_dimensionality(points, tf.constant(reference))
    # 20 images at the same place, which are as far; 1000 is the most that is said.
    assert found[0] == 1000
    assert 0 < float(found[1]) < 1
    assert float(found[2]) == pytest.approx(1000)
    assert np.isfinite(tape.gradient(found, points)).all()


@pytest.fixture(scope="module")
def attacked(digits_classifier: keras.Model, digits_test: Dataset) -> FloatArray:
    data = digits_test.take(400)
    fgsm = attacks.create("FGSM", eps=0.3)
    return fgsm(digits_classifier, data.images, data.labels).images


@pytest.fixture(scope="module")
def lid(
    digits_classifier: keras.Model, digits_test: Dataset, attacked: FloatArray
) -> LID:
    detector = LID(digits_classifier, output="logits")
    return detector.fit(digits_test.images[:300], attacked[:300])


def test_it_keeps_what_a_detector_promises(
    lid: LID, digits_classifier: keras.Model, digits_test: Dataset, tmp_path: Path
) -> None:
    images = digits_test.images[400:]
    lid.fit_threshold(images, 0.05)
    check_detector(lid, images[:10])
    lid.save(tmp_path)
    back = LID.load(tmp_path, digits_classifier)
    assert back.layers == lid.layers
    assert back.threshold() == lid.threshold()
    np.testing.assert_array_equal(back.score(images[:9]), lid.score(images[:9]))
    with pytest.raises(ValueError, match="another classifier"):
        LID.load(tmp_path, keras.models.clone_model(digits_classifier))


def test_all_layers_and_the_input_are_looked_at(
    lid: LID, digits_classifier: keras.Model
) -> None:
    names = [layer.name for layer in digits_classifier.layers]
    assert set(names) <= set(lid.layers)
    assert lid.layers[0] == digits_classifier.inputs[0].name
    named = LID(digits_classifier, output="logits", layers=names[1:3])
    assert named.layers == tuple(names[1:3])
    # A layer that another model has too.
    image = keras.Input((8, 8, 1))
    keras.Model(image, digits_classifier.layers[1](image * 0.5))
    again = LID(digits_classifier, output="logits")
    assert again.layers == lid.layers


def test_attacked_images_that_it_did_not_see_have_higher_scores(
    lid: LID, digits_test: Dataset, attacked: FloatArray
) -> None:
    clean, other = lid.score(digits_test.images[300:400]), lid.score(attacked[300:])
    # The area under the curve; of no use it is 0.5 give or take 0.04.
    assert (other[:, None] > clean).mean() > 0.8


def test_images_of_reference_are_learnt_from_by_nobody(
    lid: LID, digits_classifier: keras.Model, digits_test: Dataset, attacked: FloatArray
) -> None:
    clean = digits_test.images[:300]
    assert lid._reference is not None
    place = {image.tobytes(): number for number, image in enumerate(clean)}
    chosen = [place[image.tobytes()] for image in lid._reference]
    assert len(set(chosen)) == 100
    # What the attack made of them does not matter.
    other = attacked[:300].copy()
    other[chosen] = 0.5
    noisy = with_noise(clean, attacked[:300], np.random.default_rng(1), (0.0, 1.0))
    one, same = (
        LID(digits_classifier, output="logits").fit(clean, given, noisy)
        for given in (attacked[:300], other)
    )
    np.testing.assert_array_equal(one._weights, same._weights)


def test_noise_is_as_large_as_the_attack() -> None:
    clean = np.full((5, 8, 8, 1), 0.5, np.float32)
    attacked = clean + np.array([0.01, 0.02, 0.03, 0, 0.04], np.float32).reshape(
        5, 1, 1, 1
    )
    noisy = with_noise(clean, attacked, np.random.default_rng(0), (0.0, 1.0))
    sizes = np.linalg.norm((noisy - clean).reshape(5, -1), axis=1)
    np.testing.assert_allclose(sizes, [0.08, 0.16, 0.24, 0, 0.32], rtol=1e-4)
    white = with_noise(clean * 2, attacked, np.random.default_rng(0), (0.0, 1.0))
    assert white.max() <= 1


def test_what_does_not_fit_is_refused(
    lid: LID,
    digits_classifier: keras.Model,
    digits_test: Dataset,
    attacked: FloatArray,
    tmp_path: Path,
) -> None:
    clean = digits_test.images[:300]
    empty = LID(digits_classifier, output="logits")
    for ask in (lambda: empty.score(clean), lambda: empty.save(tmp_path)):
        with pytest.raises(RuntimeError, match="call `fit` first"):
            ask()
    with pytest.raises(ValueError, match=r"`layers`.*Received: fc9"):
        LID(digits_classifier, output="logits", layers=["fc9"])
    with pytest.raises(ValueError, match=r"`layers`.*Received: none"):
        LID(digits_classifier, output="logits", layers=[])
    with pytest.raises(ValueError, match=r"`clean`. Expected at least 120 images"):
        empty.fit(clean[:119], attacked[:119])
    with pytest.raises(ValueError, match=r"`adversarial`. Expected one for each"):
        empty.fit(clean, attacked[:200])
    with pytest.raises(ValueError, match=r"`noisy`. Expected one for each of 300"):
        empty.fit(clean, attacked[:300], clean[:200])
    with pytest.raises(ValueError, match=r"`adversarial`. Expected images of shape"):
        empty.fit(clean, np.zeros((300, 28, 28, 1), np.float32))
    with pytest.raises(ValueError, match="at least 19 clean"):
        lid.fit_threshold(clean[:18])
    with pytest.raises(ValueError, match=r"`images`. Expected images of shape"):
        lid.score(np.zeros((2, 28, 28, 1), np.float32))
