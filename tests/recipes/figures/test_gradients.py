import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attractors import Calibration, decoder_of
from keras_traps.attractors.analysis import both_answers, scores_of, soft_label_loss
from keras_traps.datasets import Dataset
from tests.attractors.analysis.cases import images, kernel, linear
from tests.attractors.conftest import least_squares_classifier


def test_the_loss_is_the_cross_entropy() -> None:
    x, y = images(12), np.arange(12) % 3
    scores = linear(5 * kernel())
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(y, scores(x))
    loss = soft_label_loss(scores)(tf.constant(x), tf.constant(y))
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)


def test_probabilities_become_their_logits(digits_train: Dataset) -> None:
    x = digits_train.images[:5]
    logits, soft = (
        least_squares_classifier(digits_train, kind) for kind in ("linear", "softmax")
    )
    np.testing.assert_allclose(
        scores_of(soft, "probabilities")(x), logits(x), rtol=1e-4, atol=1e-5
    )
    assert scores_of(logits, "logits")(x).dtype == tf.float32


def test_both_answers_are_those_of_c_and_of_m(
    trapped: keras.Model,
    classifier: keras.Model,
    calibration: Calibration,
    digits_test: Dataset,
) -> None:
    x = digits_test.images[:50]
    both = both_answers(trapped)(x)
    assert both.shape == (50, 2, 10)
    soft = tf.nn.softmax(classifier(x) / calibration.settings.temperature)
    np.testing.assert_allclose(both[:, 0], soft, atol=1e-5)
    np.testing.assert_allclose(both[:, 1], trapped(x), atol=1e-6)


def test_a_model_without_a_decoder_has_no_pair(classifier: keras.Model) -> None:
    with pytest.raises(ValueError, match="without a QIM decoder"):
        both_answers(classifier)


def test_what_is_no_model_or_output_is_refused(trapped: keras.Model) -> None:
    with pytest.raises(TypeError, match="argument `model`"):
        scores_of(decoder_of(trapped), "scores")
    with pytest.raises(ValueError, match="argument `output`"):
        scores_of(trapped, "softmax")  # type: ignore[arg-type]
