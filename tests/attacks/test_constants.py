import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks.constants import first_constant, next_constant


def search(found: list[bool], first: float, searches: int | None = None) -> list[float]:
    """Returns the c that are tried when they come out as `found`."""
    number = tf.constant(len(found) + 1 if searches is None else searches)
    constant = first_constant(tf.constant(first), tf.constant(1))
    tried = [float(constant.value[0])]
    for answer in found:
        constant = next_constant(constant, tf.constant([answer]), number)
        tried.append(float(constant.value[0]))
    return tried


def test_c_grows_tenfold_until_one_succeeds() -> None:
    tried = search([False] * 4, 0.01)
    np.testing.assert_allclose(tried, [0.01, 0.1, 1, 10, 100], rtol=1e-6)


def test_c_is_halved_towards_the_largest_that_failed() -> None:
    tried = search([False, True, False, True], 1.0)
    assert tried == [1, 10, 5.5, 7.75, 6.625]


def test_c_shrinks_towards_zero_where_all_succeed() -> None:
    assert search([True, True, True], 1.0) == [1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(("searches", "last"), [(9, [1e4, 1e5]), (10, [1e5, 1e10])])
def test_the_last_of_ten_searches_is_for_the_penalty_alone_where_none_succeeded(
    searches: int, last: list[float]
) -> None:
    tried = search([False] * (searches - 1), 1e-3, searches)
    np.testing.assert_allclose(tried[-2:], last, rtol=1e-5)


def test_c_grows_no_further_than_1e10_and_may_succeed_there() -> None:
    tried = search([False] * 10 + [True], 10.0)
    np.testing.assert_allclose(tried[-4:], [1e9, 1e10, 1e10, 1e10], rtol=1e-5)
    tried = search([False] * 9 + [True], 10.0)
    np.testing.assert_allclose(tried[-2:], [1e10, 5.5e9], rtol=1e-5)


def test_the_last_of_ten_searches_goes_on_where_one_succeeded() -> None:
    assert search([True] + [False] * 8, 1.0, 10)[-1] == pytest.approx(1 - 2.0**-9)


def test_examples_are_searched_each_on_its_own() -> None:
    constant = first_constant(tf.constant(1.0), tf.constant(3))
    for found in ([True, False, False], [False, True, False]):
        constant = next_constant(constant, tf.constant(found), tf.constant(5))
    np.testing.assert_array_equal(constant.value, [0.75, 5.5, 100])
    np.testing.assert_array_equal(constant.number, [2, 2, 2])
