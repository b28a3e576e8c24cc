import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks.success import fooled


def answer(logits: list[list[float]], label: int, targeted: bool) -> list[bool]:
    rows = tf.constant(logits, tf.float32)
    labels = tf.fill([len(logits)], tf.constant(label, tf.int64))
    return fooled(rows, labels, tf.constant(targeted)).numpy().tolist()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_answer_counts_when_it_is_the_one_wanted(scale: float) -> None:
    logits = (np.array([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]]) * scale).tolist()
    assert answer(logits, 0, targeted=False) == [False, True]
    assert answer(logits, 0, targeted=True) == [True, False]


def test_an_answer_within_rounding_of_another_counts_for_neither_side() -> None:
    close = [[1.0, 1.0 + 1e-6], [1.0 + 1e-6, 1.0], [1.0, 1.0]]
    assert answer(close, 0, targeted=False) == [False] * 3
    assert answer(close, 0, targeted=True) == [False] * 3


def test_a_lead_beyond_rounding_counts() -> None:
    assert answer([[-10.0, -9.999]], 0, targeted=False) == [True]
    assert answer([[-10.0, -9.999]], 1, targeted=True) == [True]


def test_a_model_that_says_nothing_has_not_been_fooled() -> None:
    assert answer([[0.0, 0.0]], 0, targeted=False) == [False]
    assert answer([[0.0, 0.0]], 0, targeted=True) == [False]


@pytest.mark.parametrize("masked", [-1e4, -1e9, -1e30])
def test_a_masked_class_is_no_reason_to_doubt_the_others(masked: float) -> None:
    logits = [[1.0, 1.001, masked], [1.001, 1.0, masked]]
    assert answer(logits, 0, targeted=False) == [True, False]
    assert answer(logits, 0, targeted=True) == [False, True]


def test_two_small_logits_may_be_what_is_left_of_large_ones() -> None:
    # As where each row's largest logit is subtracted.
    assert answer([[-1e-6, 0.0, -9.0]], 0, targeted=False) == [False]
    assert answer([[-1e-3, 0.0, -9.0]], 0, targeted=False) == [True]
