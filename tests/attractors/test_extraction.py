import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import attacks
from keras_traps.attractors import (
    Calibration,
    ForensicAnalyzer,
    RebuiltAnalyzer,
    decoder_of,
    extract,
    inject,
    with_slope_of,
)
from keras_traps.datasets import Dataset
from keras_traps.detectors import check_detector
from keras_traps.evaluation.subjects import Defence
from keras_traps.models.inference import predict
from keras_traps.ops.codes import MessageKind
from tests.attractors.conftest import least_squares_classifier


@pytest.mark.parametrize("high", [1.0, 2.0])
@pytest.mark.parametrize("messages", ["balanced", "random"])
def test_a_few_gradients_tell_the_whole_watermark(
    high: float,
    messages: MessageKind,
    classifier: keras.Model,
    calibration: Calibration,
    digits_test: Dataset,
) -> None:
    settings = dataclasses.replace(
        calibration.settings, bounds=(0.0, high), messages=messages
    )
    trapped = inject(classifier, settings)
    decoder = decoder_of(trapped)
    images = high * digits_test.images[:6]
    found = extract(trapped, images)
    np.testing.assert_array_equal(found.bits, decoder.message_bits)
    np.testing.assert_array_equal(found.steps, decoder.pixel_steps)
    assert found.confidence.min() == 1.0
    weights = np.asarray(decoder.pixel_weights)
    np.testing.assert_allclose(found.weights, weights / weights.mean(), rtol=0.02)
    exact = dataclasses.replace(found, weights=weights)
    np.testing.assert_allclose(
        -exact.tf_correlations(tf.constant(images)),
        decoder.distances(tf.constant(images)),
        rtol=1e-4,
        atol=1e-2,
    )


def test_steps_that_nobody_has_mislead_nobody(
    trapped: keras.Model, digits_test: Dataset
) -> None:
    found = extract(trapped, digits_test.images[:6], steps=(2.0, 3.0, 5.0, 7.5, 128.0))
    decoder = decoder_of(trapped)
    np.testing.assert_array_equal(found.bits, decoder.message_bits)
    np.testing.assert_array_equal(found.steps, decoder.pixel_steps)


def test_images_of_one_answer_are_not_enough(
    digits_defence: Defence, digits_test: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"argument `images`.*the classes \[\d\]"):
        extract(digits_defence.trapped, digits_test.images[:1])


def test_what_cannot_be_looked_at_is_named(
    trapped: keras.Model, digits_test: Dataset
) -> None:
    images = digits_test.images[:4]
    with pytest.raises(ValueError, match="`steps`"):
        extract(trapped, images, steps=(3.0, 0.0))
    with pytest.raises(ValueError, match="`steps`"):
        extract(trapped, images, steps=())
    with pytest.raises(ValueError, match=r"images|pixels"):
        extract(trapped, images + 2)
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    binary = keras.Model(image, keras.layers.Dense(1, "sigmoid")(flat))
    with pytest.raises(ValueError, match="an output for each class"):
        extract(binary, images)


def rebuilt(trapped: keras.Model, own: keras.Model, data: Dataset) -> RebuiltAnalyzer:
    watermark = extract(trapped, data.images[:6])
    return RebuiltAnalyzer(watermark, own, data.images[:300])


def test_what_is_rebuilt_is_a_detector_that_sees_what_follows_the_watermark(
    trapped: keras.Model, classifier: keras.Model, digits_test: Dataset
) -> None:
    mine = rebuilt(trapped, classifier, digits_test)
    images, labels = digits_test.images[300:380], digits_test.labels[300:380]
    check_detector(mine, images)
    pgd = attacks.create("PGD", eps=0.2, eps_iter=0.02, nb_iter=20)
    moved = pgd(trapped, images, labels, output="scores").images
    assert mine.detect(images).is_adversarial.mean() < 0.2
    assert mine.detect(moved).is_adversarial.mean() > 0.9
    np.testing.assert_allclose(mine.tf_score(moved), mine.score(moved), rtol=1e-4)


def test_answers_are_one_models_and_the_slope_anothers(
    trapped: keras.Model, digits_test: Dataset
) -> None:
    other = least_squares_classifier(digits_test, "linear")
    other.set_weights([-0.5 * weight for weight in other.get_weights()])
    both = with_slope_of(trapped, other)
    images = tf.constant(digits_test.images[:50])
    answers = predict(trapped, digits_test.images[:50]).argmax(axis=1)
    logits = both(images, training=False).numpy()
    np.testing.assert_array_equal(logits.argmax(axis=1), answers)
    # All but the answer's are as they were, and it leads by 1.
    own = other(images, training=False).numpy()
    rest = np.arange(10) != answers[:, None]
    np.testing.assert_allclose(logits[rest], own[rest], rtol=1e-5)
    np.testing.assert_allclose(logits[~rest], own.max(axis=1) + 1, rtol=1e-5)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        first, second = (one(images, training=False)[:, 3] for one in (both, other))
    np.testing.assert_allclose(
        tape.gradient(first, images), tape.gradient(second, images), rtol=1e-5
    )


def test_a_substitute_of_other_images_is_refused(trapped: keras.Model) -> None:
    image = keras.Input((9, 9, 1))
    flat = keras.layers.Flatten()(image)
    other = keras.Model(image, keras.layers.Dense(10)(flat))
    with pytest.raises(ValueError, match="argument `substitute`"):
        with_slope_of(trapped, other)


def test_who_extracts_the_watermark_gets_past_it_by_another_slope(
    trapped: keras.Model, classifier: keras.Model, digits_test: Dataset
) -> None:
    images, labels = digits_test.images[300:400], digits_test.labels[300:400]
    right = predict(trapped, images).argmax(axis=1) == labels
    images, labels = images[right], labels[right]
    analyzer = ForensicAnalyzer(trapped).fit(digits_test.images[400:], fpr=0.05)
    own = least_squares_classifier(digits_test, "linear")
    mine = rebuilt(trapped, own, digits_test)
    evading = attacks.create("LagrangianPGD", eps=0.2, nb_iter=50)
    plain = attacks.create("PGD", eps=0.2, eps_iter=0.02, nb_iter=50)

    def through(moved: np.ndarray) -> float:
        wrong = predict(trapped, moved).argmax(axis=1) != labels
        return float((wrong & ~analyzer.detect(moved).is_adversarial).mean())

    both = with_slope_of(trapped, own)
    assert through(evading(both, images, labels, detector=mine).images) > 0.5
    assert through(plain(trapped, images, labels, output="scores").images) < 0.05
