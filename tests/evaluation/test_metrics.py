import numpy as np
import pytest

from keras_traps.attacks import create
from keras_traps.evaluation.metrics import (
    area_under_curve,
    attack_row,
    detection_rates,
    worst_case,
)
from keras_traps.evaluation.paper import paper_row
from keras_traps.evaluation.results import INTEGRATED, Variant
from keras_traps.rates import Rate
from tests.evaluation.factories import make_analyzer, make_record, scores_of

ANALYZERS = {0.05: make_analyzer(0.5), 0.005: make_analyzer(0.8)}

RECORD = make_record(
    labels=[0, 0, 1, 1, 2, 2],
    goals=[1, 2, 0, 0, 1, 1],
    answers=[0, 1, 1, 2, 0, 1],
    correlations=np.array(
        [
            [0.1, 0.0, 0.1],  # answered right
            [-0.9, 0.9, 0.9],  # wrong, flagged by both, recovered
            [0.9, 0.0, -0.9],  # answered right, flagged by both
            [0.2, -0.6, 0.6],  # wrong, flagged by the first, recovered
            [-0.9, 0.8, 0.9],  # wrong, flagged by both, not recovered
            [0.1, 0.0, -0.1],  # wrong, flagged by none; the only target reached
        ],
        np.float32,
    ),
    l2=np.array([9, 1, 9, 2, 3, 4], np.float32),
)
UNDEFENDED = make_record(
    labels=RECORD.labels, goals=RECORD.goals, answers=[1, 2, 0, 0, 1, 2]
)
CLEAN_SCORES = np.array([9, 0.05, 9, 0.2, 0.3, 0.15], np.float32)
UNTARGETED, TARGETED = create("FGSM", eps=0.3), create("LLC", eps=0.3)


def test_the_columns_of_an_untargeted_attack() -> None:
    row = attack_row(
        UNTARGETED, "paper", RECORD, UNDEFENDED, ANALYZERS, CLEAN_SCORES, "mnist"
    )

    assert (row.attack, row.kind, row.variant) == ("FGSM", "UA", "paper")
    assert row.settings == {"eps": 0.3}
    assert row.success_classifier == Rate(5, 6)
    assert row.success_trapped == Rate(4, 6)
    first, second = row.detection
    assert (first.fpr, second.fpr) == (0.05, 0.005)
    assert (first.detected, first.recovered) == (Rate(3, 4), Rate(2, 3))
    assert first.overall == Rate(1, 6)
    assert (second.detected, second.recovered) == (Rate(2, 4), Rate(1, 2))
    assert second.overall == Rate(2, 6)
    assert row.mean_l2 == 2.5
    # 0.9, 0.6, 0.9 and 0.1 against 0.05, 0.2, 0.3 and 0.15: 13 of 16 pairs.
    assert row.auc == pytest.approx(13 / 16)
    assert row.unflagged is None
    assert row.paper == paper_row("FGSM", "mnist") != {}


def test_the_columns_of_a_targeted_attack_count_targets() -> None:
    row = attack_row(
        TARGETED, "paper", RECORD, UNDEFENDED, ANALYZERS, CLEAN_SCORES, "digits"
    )

    assert row.kind == "TA"
    assert row.success_classifier == Rate(5, 6)
    assert row.success_trapped == Rate(1, 6)
    for rates in row.detection:
        assert rates.detected == Rate(0, 1)
        assert rates.recovered == Rate(0, 0)
        assert rates.overall == Rate(1, 6)
    assert row.mean_l2 == 4
    assert row.auc == 0  # 0.1 against 0.15
    assert row.paper == {}


@pytest.mark.parametrize("turned", [False, True])
def test_the_area_takes_both_sides_from_the_analyzer_of_the_largest_rate(
    turned: bool,
) -> None:
    main = make_analyzer(0.5, scale=10.0)
    analyzers = [(0.05, main), (0.005, make_analyzer(0.8))]
    # The images are as they were: whatever the scale, they cannot be told apart.
    clean_scores = main.judge(RECORD.correlations).score
    row = attack_row(
        UNTARGETED,
        "paper",
        RECORD,
        None,
        dict(reversed(analyzers) if turned else analyzers),
        clean_scores,
        "mnist",
    )
    assert row.auc == 0.5


def test_the_integrated_model_has_neither_detection_nor_area() -> None:
    row = attack_row(
        UNTARGETED, "integrated", RECORD, None, ANALYZERS, CLEAN_SCORES, "mnist"
    )
    assert row.success_classifier is None
    assert row.success_trapped == Rate(4, 6)
    assert row.detection == ()
    assert row.auc is None
    # At the rate that it is made with, whatever the order.
    assert row.unflagged == Rate(1, 6)
    turned = dict(reversed(ANALYZERS.items()))
    again = attack_row(
        UNTARGETED, "integrated", RECORD, None, turned, CLEAN_SCORES, "mnist"
    )
    assert again.unflagged == Rate(1, 6)


def test_an_attack_that_never_succeeds_has_no_rate_among_successes() -> None:
    row = attack_row(
        UNTARGETED, "margin", make_record(), None, ANALYZERS, CLEAN_SCORES, "mnist"
    )
    assert row.success_trapped == Rate(0, 6)
    assert row.detection[0].detected == Rate(0, 0)
    assert row.detection[0].overall == Rate(0, 6)
    assert (row.auc, row.mean_l2) == (None, None)


def test_detection_rates_count_among_what_is_called_a_success() -> None:
    success = np.array([True, True, True, False, False, False])
    rates = detection_rates(RECORD, success, ANALYZERS[0.05], 0.05)
    assert rates.detected == Rate(2, 3)
    assert rates.recovered == Rate(1, 2)
    assert rates.overall == Rate(1, 6)


@pytest.mark.parametrize(
    ("attacked", "clean", "expected"),
    [
        ([2, 3, 9], [0, 1, 9], 1.0),
        ([0, 1, 9], [2, 3, 9], 0.0),
        ([1, 1, 9], [1, 1, 9], 0.5),
        ([0, 2, 9], [1, 1, 9], 0.5),
        ([1, 2, 9], [1, 0, 9], 0.875),
    ],
)
def test_the_area_is_the_share_of_pairs_in_the_right_order(
    attacked: list[float], clean: list[float], expected: float
) -> None:
    success = np.array([True, True, False])
    area = area_under_curve(
        np.array(attacked, np.float32), np.array(clean, np.float32), success
    )
    assert area == pytest.approx(expected)


def test_no_success_has_no_area() -> None:
    scores = np.ones(3, np.float32)
    assert area_under_curve(scores, scores, np.zeros(3, bool)) is None


def test_the_worst_case_is_taken_per_image() -> None:
    # Wrong and unseen here where the first record is right or seen.
    other = make_record(
        labels=RECORD.labels,
        answers=[1, 0, 1, 1, 2, 2],
        correlations=np.array(
            [[0.7, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
            np.float32,
        ),
    )

    worst = worst_case("paper", [RECORD, other], ANALYZERS)

    assert worst.variant == "paper"
    assert worst.misclassified == Rate(5, 6)  # 0 by the other; 1, 3, 4, 5
    assert worst.overall == {0.05: Rate(1, 6), 0.005: Rate(3, 6)}  # 5; 0, 3, 5


def test_an_image_seen_in_one_attack_may_be_lost_to_another() -> None:
    seen = make_record(1, answers=[1], correlations=[[0.9, 0.0, 0.0]])
    unseen = make_record(1, answers=[1])
    for records in ([seen, unseen], [unseen, seen]):
        assert worst_case("margin", records, ANALYZERS).overall[0.05] == Rate(1, 1)
    # Unseen but right, wrong but seen: nobody got through.
    right = make_record(1)
    assert worst_case("margin", [seen, right], ANALYZERS).overall[0.05] == Rate(0, 1)


def test_the_worst_case_is_of_the_images_that_all_attacks_met() -> None:
    few = make_record(2, labels=RECORD.labels[:2], answers=[1, 0])
    worst = worst_case("paper", [RECORD, few], ANALYZERS)
    assert worst.misclassified == Rate(2, 2)
    assert worst.overall[0.05] == Rate(1, 2)


@pytest.mark.parametrize("variant", INTEGRATED)
def test_the_integrated_models_worst_case_is_its_wrong_answers(
    variant: Variant,
) -> None:
    worst = worst_case(variant, [RECORD], dict(reversed(ANALYZERS.items())))
    assert worst.misclassified == Rate(4, 6)
    # It is made with the thresholds of the largest rate, and attacked with no others.
    assert worst.overall == {0.05: Rate(4, 6)}


def test_the_analyzer_made_for_these_tests_scores_as_it_says() -> None:
    verdict = ANALYZERS[0.05].judge(RECORD.correlations)
    np.testing.assert_allclose(verdict.score, scores_of(RECORD.correlations))
    assert verdict.is_adversarial.tolist() == [False, True, True, True, True, False]
