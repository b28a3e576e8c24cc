from typing import Any

import numpy as np
import pytest

from keras_traps.luring import clean_metrics, luring_metrics

# Right on both; fools M∘P alone; fools both alike; fools both, each its own way; fools
# M alone.
ANSWERS = {
    "augmented": np.array([0, 1, 1, 1, 0]),
    "target": np.array([0, 0, 1, 2, 1]),
    "labels": np.array([0, 0, 0, 0, 0]),
}


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


def test_a_share_of_nothing_is_no_number() -> None:
    found = luring_metrics(**{**ANSWERS, "augmented": ANSWERS["labels"]})
    for rate in (found.dr, found.adq):
        assert rate.value is None
        assert rate.interval is None
    nothing = luring_metrics(**{name: of[:0] for name, of in ANSWERS.items()})
    assert {rate.value for rate in nothing} == {None}


@pytest.mark.parametrize("name", ["augmented", "target"])
def test_answers_of_another_length_are_named(name: str) -> None:
    given = {**ANSWERS, name: ANSWERS[name][:3]}
    with pytest.raises(ValueError, match=rf"`{name}`.*\(5,\).*\(3,\)"):
        luring_metrics(**given)


def test_clean_metrics_count_lists_and_refuse_columns() -> None:
    answers: Any = {"target": [0, 1, 2, 2], "augmented": [0, 1, 1, 0]}
    labels: Any = [0, 1, 1, 2]
    assert clean_metrics(**answers, labels=labels) == (0.75, 0.75, 0.5, 0.5)
    # Labels as `keras.datasets.cifar10.load_data` gives them.
    with pytest.raises(ValueError, match=r"`target`.*\(4, 1\).*\(4,\)"):
        clean_metrics(**answers, labels=np.reshape(labels, (4, 1)))
