from typing import Any

import numpy as np
import pytest

from keras_traps.luring import (
    adequation_rate,
    adversarial_accuracy,
    clean_metrics,
    detection_adversarial_accuracy,
    detection_rate,
    l0_distortion,
    luring_metrics,
)

# Right on both; fools M∘P alone; fools both alike; fools both, each its own way; fools
# M alone.
LABELS = np.array([0, 0, 0, 0, 0])
AUGMENTED = np.array([0, 1, 1, 1, 0])
TARGET = np.array([0, 0, 1, 2, 1])
ANSWERS = {"augmented": AUGMENTED, "target": TARGET, "labels": LABELS}


def test_rates_are_those_counted_by_hand() -> None:
    measured = luring_metrics(**ANSWERS)
    counted = {
        name: (rate.count, rate.total) for name, rate in measured._asdict().items()
    }
    assert counted == {
        "ac_mop": (2, 5),
        "ac_m": (2, 5),
        # All but the third, on which both give the same wrong class.
        "dac": (4, 5),
        # Of the three that fool M∘P.
        "dr": (2, 3),
        "adq": (1, 3),
    }


def test_m_and_m_behind_p_are_told_apart_by_name_alone() -> None:
    measures: list[Any] = [luring_metrics, clean_metrics, detection_rate]
    for measure in measures:
        with pytest.raises(TypeError, match="positional"):
            measure(*ANSWERS.values())


def test_a_share_of_nothing_is_no_number() -> None:
    for rate in (detection_rate, adequation_rate):
        found = rate(augmented=LABELS, target=TARGET, labels=LABELS)
        assert found.value is None
        assert found.interval is None
    assert adversarial_accuracy(LABELS[:0], LABELS[:0]).value is None


def test_dac_is_at_least_the_accuracy_of_m() -> None:
    drawn = np.random.default_rng(0).integers(0, 3, (3, 200))
    augmented, target, labels = drawn
    dac = detection_adversarial_accuracy(
        augmented=augmented, target=target, labels=labels
    )
    assert dac.count >= adversarial_accuracy(target, labels).count
    # Equation 4, letter by letter.
    alike = sum(
        a == t and t != y for a, t, y in zip(augmented, target, labels, strict=True)
    )
    assert dac.value == pytest.approx(1 - alike / 200)


def test_l0_counts_values_not_pixels() -> None:
    clean = np.zeros((2, 2, 2, 3), np.float32)
    attacked = clean.copy()
    attacked[1, 0, 0] = [0.1, 0.0, 1e-30]
    np.testing.assert_array_equal(l0_distortion(clean, attacked), [0, 2])
    with pytest.raises(ValueError, match=r"`attacked`.*\(2, 2, 2, 3\)"):
        l0_distortion(clean, attacked[:1])


@pytest.mark.parametrize("name", ["augmented", "target"])
def test_answers_of_another_length_are_named(name: str) -> None:
    given = {**ANSWERS, name: ANSWERS[name][:3]}
    with pytest.raises(ValueError, match=rf"`{name}`.*\(5,\).*\(3,\)"):
        luring_metrics(**given)


def test_clean_metrics_count_lists_and_refuse_columns() -> None:
    answers: Any = {
        "target": [0, 1, 2, 2],
        "augmented": [0, 1, 1, 0],
        "labels": [0, 1, 1, 2],
    }
    measured = clean_metrics(**answers)
    assert measured == (0.75, 0.75, 0.5, 0.5)
    # Labels as `keras.datasets.cifar10.load_data` gives them.
    column = np.array([[0], [1], [1], [2]])
    with pytest.raises(ValueError, match=r"`target`.*\(4, 1\).*\(4,\)"):
        clean_metrics(
            target=np.zeros(4, int), augmented=np.zeros(4, int), labels=column
        )
