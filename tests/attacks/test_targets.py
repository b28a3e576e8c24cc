import numpy as np
import pytest

from keras_traps.attacks import least_likely_targets, random_targets
from keras_traps.attacks.targets import check_targets


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_a_random_target_is_any_class_but_the_true_one(num_classes: int) -> None:
    labels = np.arange(4000) % num_classes

    targets = random_targets(labels, num_classes, seed=0, ids=np.arange(4000))

    assert targets.dtype == np.int64
    offsets = (targets - labels) % num_classes
    counts = np.bincount(offsets, minlength=num_classes)
    assert counts[0] == 0
    share = 1 / (num_classes - 1)
    deviation = np.sqrt(4000 * share * (1 - share))
    assert np.abs(counts[1:] - 4000 * share).max() <= 5 * deviation
    assert targets.min() == 0
    assert targets.max() == num_classes - 1


def test_a_random_target_depends_on_the_example_and_the_seed_alone() -> None:
    labels, ids = np.arange(50) % 10, np.arange(50) * 7
    targets = random_targets(labels, 10, seed=1, ids=ids)

    order = np.random.default_rng(0).permutation(50)[:20]
    again = random_targets(labels[order], 10, seed=1, ids=ids[order])
    np.testing.assert_array_equal(again, targets[order])
    assert (random_targets(labels, 10, seed=2, ids=ids) != targets).any()
    assert (random_targets(labels, 10, seed=1, ids=ids + 1) != targets).any()


def test_the_least_likely_class_has_the_lowest_output() -> None:
    outputs = np.array([[0.2, 0.5, 0.3], [9.0, -1.0, -2.0], [0.0, 0.0, 1.0]], "f4")
    targets = least_likely_targets(outputs)
    assert targets.tolist() == [0, 2, 0]
    assert targets.dtype == np.int64


def test_the_true_class_is_left_out_where_it_is_known() -> None:
    outputs = np.array([[0, 0, 1], [0, 0, 1], [3, 2, 1], [np.inf] * 3], "f4")
    targets = least_likely_targets(outputs, [0, 2, 2, 0])
    assert targets.tolist() == [1, 0, 1, 1]
    assert targets.dtype == np.int64


def test_labels_change_no_target_of_an_example_that_the_model_has_right() -> None:
    outputs = np.random.default_rng(0).normal(size=(500, 10)).astype("f4")
    labels = outputs.argmax(axis=1)
    targets = least_likely_targets(outputs, labels)
    np.testing.assert_array_equal(targets, least_likely_targets(outputs))


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        (np.zeros((2, 3)), [0], "argument `labels`"),
        (np.zeros((2, 3)), [0, 3], "argument `labels`"),
        (np.zeros((1, 1)), [0], "`num_classes`. Expected at least 2"),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_told(
    outputs: np.ndarray, labels: list[int], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        least_likely_targets(outputs, labels)


@pytest.mark.parametrize(
    ("num_classes", "seed", "expected"),
    [
        (1, 0, "`num_classes`. Expected at least 2. Received: num_classes=1"),
        (2, -1, "`seed`. Expected at least 0. Received: seed=-1"),
    ],
)
def test_a_draw_that_cannot_be_made_is_told(
    num_classes: int, seed: int, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        random_targets(np.zeros(2, int), num_classes, seed=seed, ids=np.arange(2))


@pytest.mark.parametrize(
    ("targeted", "y_target", "expected"),
    [(False, None, [0, 1]), (True, [1, 0], [1, 0])],
)
def test_the_classes_looked_at_are_the_targets_if_there_are_some(
    targeted: bool, y_target: list[int] | None, expected: list[int]
) -> None:
    labels = np.array([0, 1])
    found = check_targets(y_target, labels, 2, name="LLC", targeted=targeted)
    assert found.tolist() == expected


def test_a_least_likely_class_that_is_the_true_one_is_no_target() -> None:
    labels, outputs = np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]], "f4")
    targets = least_likely_targets(outputs)
    with pytest.raises(ValueError, match=r"other than the true class.*at index 1"):
        check_targets(targets, labels, 2, name="LLC", targeted=True)
