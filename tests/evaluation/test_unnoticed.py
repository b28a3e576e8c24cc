import numpy as np
import pytest

from keras_traps.attacks import create
from keras_traps.evaluation.results import Fooled
from keras_traps.evaluation.unnoticed import confidence, unnoticed
from tests.evaluation.factories import make_analyzer, make_record

ANALYZERS = {0.05: make_analyzer(0.5), 0.005: make_analyzer(0.8)}
LEAD = np.array([0.9, 0.2, 0.8, 0.1, 0.7], np.float32)
RECORD = make_record(
    labels=[0, 0, 1, 1, 2],
    goals=[1, 1, 0, 0, 1],
    answers=[0, 1, 0, 2, 1],
    correlations=np.array(
        [
            [0.1, 0.0, 0.1],  # answered right
            [0.1, 0.2, 0.0],  # wrong, not flagged
            [0.9, -0.9, 0.9],  # wrong, flagged
            [0.1, 0.0, 0.3],  # wrong, not the target, not flagged
            [0.0, 0.9, -0.9],  # wrong, flagged
        ],
        np.float32,
    ),
    l2=np.array([9, 1, 4, 3, 6], np.float32),
)


def test_a_lead_is_that_of_the_probabilities_over_the_second() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]], np.float32))
    for outputs, kind in ((logits - 3, "logits"), (np.exp(logits), "probabilities")):
        lead = confidence(outputs, kind)  # type: ignore[arg-type]
        np.testing.assert_allclose(lead, [0.5, 0.1], rtol=1e-5)


def test_the_fooled_images_are_told_apart_by_whether_they_are_flagged() -> None:
    found = unnoticed(create("FGSM", eps=0.3), RECORD, ANALYZERS, LEAD)
    assert found is not None
    assert (found.attack, found.fpr) == ("FGSM", 0.05)
    assert (found.unnoticed.count, found.noticed.count) == (2, 2)
    # The middle between 0.2 and 0.1, 0.1 and 0.3, 1 and 3.
    assert found.unnoticed.confidence == pytest.approx(0.15)
    assert found.unnoticed.pull == pytest.approx(0.2)
    assert found.unnoticed.l2 == pytest.approx(2)
    assert found.noticed.confidence == pytest.approx(0.75)
    assert found.noticed.pull == pytest.approx(1.8)
    assert found.noticed.l2 == pytest.approx(5)


def test_a_targeted_attack_counts_its_target_alone() -> None:
    found = unnoticed(create("LLC", eps=0.3), RECORD, ANALYZERS, LEAD)
    assert found is not None
    assert (found.unnoticed.count, found.noticed.count) == (1, 2)


def test_there_is_nothing_to_tell_where_all_are_flagged_or_right() -> None:
    flagged = make_record(
        labels=[0], goals=[1], answers=[1], correlations=np.array([[-0.9, 0.9, 0.9]])
    )
    right = make_record(
        labels=[0], goals=[1], answers=[0], correlations=np.array([[0.1, 0.0, 0.1]])
    )
    attack = create("FGSM", eps=0.3)
    for record in (flagged, right):
        assert unnoticed(attack, record, ANALYZERS, LEAD[:1]) is None


def test_where_none_is_noticed_that_side_has_no_numbers() -> None:
    record = make_record(
        labels=[0], goals=[1], answers=[1], correlations=np.array([[0.1, 0.2, 0.0]])
    )
    found = unnoticed(create("FGSM", eps=0.3), record, ANALYZERS, LEAD[:1])
    assert found is not None
    assert found.noticed == Fooled(0, None, None, None)
