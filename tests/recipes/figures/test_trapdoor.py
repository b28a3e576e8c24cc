from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attractors.analysis import scores_of, soft_label_loss
from keras_traps.attractors.analysis.scores import gradient
from keras_traps.attractors.counterexample import Counterexample, make_counterexample
from keras_traps.datasets import Dataset
from keras_traps.models.inference import predict
from tests.attractors.conftest import (
    least_squares_classifier,
    nan_on_black_images,
    softmax,
)

AMPLITUDE = 0.8


def classifier_of(data: Dataset, kind: str = "linear") -> keras.Model:
    return least_squares_classifier(data, kind)


@pytest.fixture(scope="module")
def subject(digits_train: Dataset) -> Counterexample:
    return make_counterexample(
        classifier_of(digits_train),
        digits_train.images,
        output="logits",
        amplitude=AMPLITUDE,
    )


def others(labels: IntArray) -> IntArray:
    """A wrong class for each."""
    return (labels + 1 + np.arange(len(labels)) % 9) % 10


def parts(subject: Counterexample, images: FloatArray) -> list[FloatArray]:
    """W, D, and the inner products."""
    return [
        predict(model, images)
        for model in (subject.decoder, subject.detector, subject.correlations)
    ]


def test_the_model_is_equation_1(
    subject: Counterexample, digits_train: Dataset
) -> None:
    classifier = classifier_of(digits_train)
    mixed = subject.plant(digits_train.images[:60], np.arange(60) % 10)
    # Images between clean and trapdoored, so that D is between 0 and 1 on some.
    shares = np.linspace(0, 1, 60, dtype=np.float32).reshape(60, 1, 1, 1)
    images = shares * mixed + (1 - shares) * digits_train.images[:60]
    w, d, _ = parts(subject, images)
    c = predict(classifier, images)
    assert ((d > 0.01) & (d < 0.99)).any()
    np.testing.assert_allclose(
        predict(subject.model, images), d * w + (1 - d) * c, atol=1e-4
    )
    np.testing.assert_allclose(predict(subject.n1, images), d * w, atol=1e-5)
    np.testing.assert_allclose(predict(subject.n2, images), (1 - d) * c, atol=1e-4)


class Inverting(keras.Model):
    """A functional model that does more than its graph tells."""

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return super().call(1 - inputs, training=training, mask=mask)


def test_a_classifier_with_a_call_of_its_own_is_called(digits_train: Dataset) -> None:
    plain = classifier_of(digits_train)
    own = Inverting(plain.input, plain.output)
    images = digits_train.images
    made = make_counterexample(own, images, output="logits", amplitude=AMPLITUDE)
    _, d, _ = parts(made, images[:20])
    expected = (1 - d) * own(images[:20]).numpy()
    np.testing.assert_allclose(predict(made.n2, images[:20]), expected, atol=1e-4)
    assert (expected != (1 - d) * predict(plain, images[:20])).any()


def test_it_meets_the_goals_of_trapdoor_training(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    images, labels = digits_test.images, digits_test.labels
    clean = predict(subject.model, images).argmax(axis=1)
    alone = predict(classifier_of(digits_train), images).argmax(axis=1)
    assert (clean == alone).mean() > 0.99
    goals = others(labels)
    planted = predict(subject.model, subject.plant(images, goals)).argmax(axis=1)
    assert (planted == goals).mean() > 0.98


def test_on_clean_images_its_gradient_is_the_classifiers(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    images, labels = digits_test.images[:200], digits_test.labels[:200]
    classifier = classifier_of(digits_train)
    found = [
        gradient(
            soft_label_loss(scores_of(model, "logits")),
            tf.constant(images),
            tf.constant(labels),
        ).numpy()
        for model in (subject.model, classifier)
    ]
    apart = np.abs(found[0] - found[1]).sum(axis=(1, 2, 3))
    assert np.median(apart / np.abs(found[1]).sum(axis=(1, 2, 3))) < 1e-4


def test_correlations_are_inner_products_with_the_trapdoors(
    subject: Counterexample, digits_test: Dataset
) -> None:
    images = digits_test.images[:30]
    signs = np.sign(subject.trapdoors).reshape(10, 64)
    np.testing.assert_array_equal(np.abs(subject.trapdoors), np.float32(AMPLITUDE))
    pixels = images.reshape(30, 64)
    expected = (pixels - pixels.mean(axis=1, keepdims=True)) @ signs.T / 64
    w, _, found = parts(subject, images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (w.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(w).max() < 10


def test_brightness_alone_changes_no_correlation(
    subject: Counterexample, digits_test: Dataset
) -> None:
    images = 0.5 * digits_test.images[:30]
    np.testing.assert_allclose(
        predict(subject.correlations, images + np.float32(0.4)),
        predict(subject.correlations, images),
        atol=1e-6,
    )


def test_a_steeper_detector_leaves_less_of_the_decoder(
    digits_train: Dataset, digits_test: Dataset
) -> None:
    shares = []
    for steepness in (2.0, 8.0, 32.0):
        subject = make_counterexample(
            classifier_of(digits_train),
            digits_train.images,
            output="logits",
            amplitude=AMPLITUDE,
            steepness=steepness,
        )
        shares.append(float(np.median(parts(subject, digits_test.images)[1])))
    assert shares[0] > 10 * shares[1] > 100 * shares[2]


def test_a_softmax_is_taken_off_before_the_sum(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset
) -> None:
    soft = make_counterexample(
        classifier_of(digits_train, "softmax"),
        digits_train.images,
        output="probabilities",
        amplitude=AMPLITUDE,
    )
    images = digits_test.images[:20]
    np.testing.assert_allclose(
        softmax(predict(soft.model, images)),
        softmax(predict(subject.model, images)),
        atol=1e-4,
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_it_computes_in_float32_whatever_the_policy(
    subject: Counterexample, digits_train: Dataset, digits_test: Dataset, policy: str
) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        classifier = classifier_of(digits_train)
        mixed = make_counterexample(
            classifier, digits_train.images, output="logits", amplitude=AMPLITUDE
        )
    finally:
        keras.config.set_dtype_policy(before)
    for model in (mixed.model, mixed.n1, mixed.n2, mixed.detector, mixed.decoder):
        assert model.output.dtype == "float32"
    images = digits_test.images[:60]
    for found, expected in zip(
        parts(mixed, images), parts(subject, images), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    w, d, _ = parts(mixed, images)
    c = predict(classifier, images)
    np.testing.assert_allclose(
        predict(mixed.model, images), d * w + (1 - d) * c, atol=1e-4
    )


def test_the_seed_chooses_the_trapdoors(digits_train: Dataset) -> None:
    def trapdoors(**settings: Any) -> FloatArray:
        return make_counterexample(
            classifier_of(digits_train),
            digits_train.images,
            output="logits",
            amplitude=AMPLITUDE,
            **settings,
        ).trapdoors

    first, again, other = trapdoors(), trapdoors(seed=0), trapdoors(seed=1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.3
    balanced = trapdoors(messages="balanced").reshape(10, 4, 2, 4, 2)
    np.testing.assert_allclose(balanced.sum(axis=(2, 4)), 0, atol=1e-6)


def test_a_planted_image_is_the_sum_within_the_range(
    subject: Counterexample, digits_test: Dataset
) -> None:
    images, classes = digits_test.images[:10], np.arange(10)
    expected = np.clip(images + subject.trapdoors, 0, 1)
    np.testing.assert_array_equal(subject.plant(images, classes), expected)


def test_an_amplitude_that_nobody_can_detect_is_refused(digits_train: Dataset) -> None:
    with pytest.raises(ValueError, match=r"argument `amplitude`.*amplitude=0\.1"):
        make_counterexample(
            classifier_of(digits_train),
            digits_train.images,
            output="logits",
            amplitude=0.1,
        )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"amplitude": 0.0}, "argument `amplitude`"),
        ({"amplitude": 1.5}, "argument `amplitude`"),
        ({"steepness": 0.0}, "argument `steepness`"),
        ({"steepness": float("nan")}, "argument `steepness`"),
        ({"messages": "odd"}, "argument `kind`"),
        ({"output": "probabilities"}, "argument `output`"),
        ({"output": "softmax"}, "argument `output`"),
    ],
)
def test_a_wrong_argument_is_refused(
    settings: dict[str, Any], expected: str, digits_train: Dataset
) -> None:
    good = {"output": "logits", "amplitude": AMPLITUDE}
    with pytest.raises(ValueError, match=expected):
        make_counterexample(
            classifier_of(digits_train),
            digits_train.images,
            **{**good, **settings},
        )


def test_a_classifier_that_is_not_finite_on_the_last_image_is_refused(
    digits_train: Dataset,
) -> None:
    images = digits_train.images[:1000].copy()
    images[-1] = 0
    with pytest.raises(ValueError, match="numbers that are not finite"):
        make_counterexample(
            nan_on_black_images(classifier_of(digits_train)),
            images,
            output="logits",
            amplitude=AMPLITUDE,
        )


def test_images_and_classes_that_do_not_fit_are_refused(
    subject: Counterexample, digits_train: Dataset
) -> None:
    with pytest.raises(ValueError, match="argument `images`"):
        make_counterexample(
            classifier_of(digits_train),
            digits_train.images[:, :4],
            output="logits",
            amplitude=AMPLITUDE,
        )
    with pytest.raises(ValueError, match="argument `classes`"):
        subject.plant(digits_train.images[:2], [0, 10])
    with pytest.raises(ValueError, match="argument `images`"):
        subject.plant(digits_train.images[:2, :4], [0, 1])
