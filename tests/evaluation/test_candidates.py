import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import preset
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import Candidates, choose_candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.models.inference import predict


@pytest.fixture(scope="module")
def outputs(digits_defence: Defence, digits_test: Dataset) -> npt.NDArray[np.float32]:
    return predict(digits_defence.classifier, digits_test.images)


def choose(
    outputs: npt.NDArray[np.float32], test: Dataset, **changes: int
) -> Candidates:
    return choose_candidates(
        outputs, test, **{"num_examples": 50, "seed": 0, **changes}
    )


def test_candidates_are_images_that_the_classifier_gets_right(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    right = np.flatnonzero(outputs.argmax(axis=1) == digits_test.labels)
    assert len(right) < len(digits_test)

    chosen = choose(outputs, digits_test, num_examples=10**6)

    assert sorted(chosen.ids) == right.tolist()
    np.testing.assert_array_equal(chosen.images, digits_test.images[chosen.ids])
    np.testing.assert_array_equal(chosen.labels, digits_test.labels[chosen.ids])


def test_fewer_candidates_are_the_first_of_more_whatever_the_seed(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    many = choose(outputs, digits_test, num_examples=100, seed=0)
    few = choose(outputs, digits_test, num_examples=20, seed=1)
    assert len(few.ids) == 20
    np.testing.assert_array_equal(few.ids, many.ids[:20])
    np.testing.assert_array_equal(few.least_likely, many.least_likely[:20])
    assert (few.random != many.random[:20]).any()


def test_a_target_belongs_to_its_image(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    # With other images wrong, the rest keep their targets.
    spoilt = outputs.copy()
    spoilt[: len(outputs) // 2] *= -1
    whole = choose(outputs, digits_test, num_examples=500)
    part = choose(spoilt, digits_test, num_examples=500)
    by_id = dict(zip(whole.ids.tolist(), whole.random.tolist(), strict=True))
    kept = [i for i in part.ids.tolist() if i >= len(outputs) // 2]
    assert kept
    for image, target in zip(part.ids.tolist(), part.random.tolist(), strict=True):
        if image in by_id:
            assert by_id[image] == target


def test_no_target_is_the_true_class(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    chosen = choose(outputs, digits_test, num_examples=500)
    for targets in (chosen.random, chosen.least_likely):
        assert (targets != chosen.labels).all()
        assert set(targets.tolist()) <= set(range(10))
    np.testing.assert_array_equal(
        chosen.least_likely, outputs[chosen.ids].argmin(axis=1)
    )


def with_logits(rows: list[list[int]]) -> tuple[keras.Model, Dataset]:
    """Makes a model whose logits are its pixels, and such images, all of class 3."""
    image = keras.Input((1, 4, 1))
    model = keras.Model(image, keras.layers.Flatten()(image))
    pixels = np.array(rows, np.uint8).reshape(-1, 1, 4, 1)
    labels = np.full(len(rows), 3, np.int64)
    return model, Dataset("rows", "test", pixels, labels, 4, tuple("abcd"), "none")


def test_logits_tell_the_least_likely_of_classes_that_are_never_met() -> None:
    model, test = with_logits([[20, 10, 30, 90], [30, 20, 10, 90]])
    outputs = np.array([[0, 0, 0, 1], [0, 0, 0, 1]], np.float32)
    chosen = choose_candidates(outputs, test, num_examples=2, seed=0, logits=model)
    assert chosen.least_likely.tolist() == [1, 2]
    first = choose_candidates(outputs, test, num_examples=2, seed=0)
    assert first.least_likely.tolist() == [0, 0]


def test_logits_are_not_asked_where_one_class_is_the_least_likely() -> None:
    model, test = with_logits([[20, 10, 30, 90]])
    outputs = np.array([[0.1, 0.2, 0.1, 0.6]], np.float32)
    outputs[0, 2] = np.nextafter(outputs[0, 0], np.float32(1))
    chosen = choose_candidates(outputs, test, num_examples=1, seed=0, logits=model)
    assert chosen.least_likely.tolist() == [0]


def test_an_attack_gets_the_targets_of_its_rule(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    chosen = choose(outputs, digits_test)
    for attack in preset("digits"):
        goals = chosen.goals(attack)
        if attack.name in ("TMIFGSM", "JSMA", "CW2", "EAD", "BLB"):
            assert goals is chosen.random
        elif attack.targeted:
            assert goals is chosen.least_likely
        else:
            assert goals is None


@pytest.mark.parametrize("count", [0, -1])
def test_no_examples_are_refused(
    count: int, outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"`num_examples`. Expected at least 1"):
        choose(outputs, digits_test, num_examples=count)


def test_a_classifier_that_is_never_right_is_refused(digits_test: Dataset) -> None:
    wrong = np.eye(10, dtype=np.float32)[(digits_test.labels + 1) % 10]
    with pytest.raises(ValueError, match="right on none"):
        choose(wrong, digits_test)
