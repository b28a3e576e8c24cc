import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
import pytest

from keras_traps import Calibration, ForensicAnalyzer
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence, defend


def test_it_is_the_classifier_with_its_traps(
    digits_defence: Defence,
    digits_classifier: keras.Model,
    digits_calibration: Calibration,
) -> None:
    assert digits_defence.classifier is digits_classifier
    assert digits_defence.output == "logits"
    decoder = decoder_of(digits_defence.trapped)
    constants = digits_calibration.settings
    assert (decoder.a0, decoder.a1, decoder.a2, decoder.seed) == (
        constants.a0,
        constants.a1,
        constants.a2,
        constants.seed,
    )


def test_each_rate_has_an_analyzer_as_if_fitted_alone(
    digits_defence: Defence, digits_train: Dataset
) -> None:
    assert list(digits_defence.analyzers) == [0.05, 0.005]
    for fpr, analyzer in digits_defence.analyzers.items():
        alone = ForensicAnalyzer(digits_defence.trapped)
        alone.fit(digits_train.images, fpr=fpr)
        assert analyzer.thresholds == alone.thresholds
        assert analyzer.thresholds.fpr == fpr


def test_a_smaller_rate_has_wider_limits(digits_defence: Defence) -> None:
    wide, narrow = (digits_defence.analyzers[fpr].thresholds for fpr in (0.005, 0.05))
    assert wide.upper > narrow.upper
    assert wide.lower < narrow.lower
    assert wide.deviation > narrow.deviation


@pytest.mark.parametrize("fprs", [(0.05, 0.01), (0.01, 0.05)])
def test_the_main_analyzer_is_that_of_the_largest_rate(
    fprs: Sequence[float],
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
) -> None:
    defence = defend(
        digits_defence.classifier,
        digits_calibration.settings,
        digits_train.images,
        fprs=fprs,
    )
    assert list(defence.analyzers) == list(fprs)
    assert defence.main_analyzer is defence.analyzers[0.05]
    assert defence.main_analyzer.thresholds.fpr == 0.05


@pytest.mark.parametrize(
    ("fprs", "count", "expected"),
    [
        ((), 300, r"argument `fprs`. Expected at least one rate. Received: fprs=\(\)"),
        ((0.05, 1.5), 300, "`fpr`. Expected a number between 0 and 1"),
        ((0.05, 0.005), 150, "at least 199 clean images for a false-positive rate of"),
    ],
)
def test_rates_that_cannot_be_held_are_refused(
    fprs: tuple[float, ...],
    count: int,
    expected: str,
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
) -> None:
    images: np.ndarray = digits_train.images[:count]
    with pytest.raises(ValueError, match=expected):
        defend(
            digits_defence.classifier, digits_calibration.settings, images, fprs=fprs
        )


def test_another_classifier_to_ask_is_kept_or_refused(
    digits_defence: Defence, digits_calibration: Calibration, digits_train: Dataset
) -> None:
    def asking(other: keras.Model) -> Defence:
        return defend(
            digits_defence.classifier,
            digits_calibration.settings,
            digits_train.images,
            recovery_classifier=other,
        )

    asked = keras.models.clone_model(digits_defence.classifier)
    assert asking(asked).recovery_classifier is asked
    softmax = keras.Sequential([asked, keras.layers.Softmax()])
    with pytest.raises(ValueError, match=r"`recovery_classifier`.*returns logits"):
        asking(softmax)
    # What is wrong with C itself is told of first.
    with pytest.raises(ValueError, match="argument `output`"):
        defend(
            digits_defence.classifier,
            dataclasses.replace(digits_calibration.settings, output="probabilities"),
            digits_train.images,
            recovery_classifier=softmax,
        )
