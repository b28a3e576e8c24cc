import threading
import time
from collections.abc import Callable

import pytest

from keras_traps.attacks.together import run_together

Ask = Callable[[int], int]
Search = Callable[[Ask], list[int]]


def counting(start: int, questions: int) -> Search:
    """Asks about `start`, `start + 1`, ... and returns the answers."""

    def search(ask: Ask) -> list[int]:
        return [ask(start + step) for step in range(questions)]

    return search


class Squares:
    """Answers with squares, and remembers what it was asked at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, questions: list[int]) -> list[int]:
        self.batches.append(sorted(questions))
        return [question**2 for question in questions]


def test_each_search_gets_its_own_answers_and_results_keep_their_order() -> None:
    searches = [counting(10 * number, number) for number in range(6)]
    results = run_together(searches, Squares(), at_once=4)
    assert results == [
        [(10 * number + step) ** 2 for step in range(number)] for number in range(6)
    ]


def test_one_question_of_every_search_is_answered_at_once() -> None:
    squares = Squares()
    run_together([counting(0, 3), counting(10, 3), counting(20, 1)], squares, at_once=8)
    assert squares.batches == [[0, 10, 20], [1, 11], [2, 12]]


@pytest.mark.parametrize("late", [0, 2])
def test_batches_are_the_same_whichever_thread_comes_late(late: int) -> None:
    def search(number: int) -> Search:
        def delayed(ask: Ask) -> list[int]:
            answers = []
            for step in range(1 + number % 3):
                time.sleep(0.02 * (number % 3 == late))
                answers.append(ask(10 * number + step))
            return answers

        return delayed

    batches: list[list[int]] = []

    def answer(questions: list[int]) -> list[int]:
        batches.append(questions)
        return questions

    run_together([search(number) for number in range(6)], answer, at_once=3)
    # Search 0 asks once, 1 twice, 2 thrice, and so again.
    assert batches == [
        [0, 10, 20],
        [11, 21, 30],
        [22, 40, 50],
        [41, 51],
        [52],
    ]


def test_a_search_that_ends_makes_place_for_the_next() -> None:
    squares = Squares()
    searches = [counting(10 * number, 2) for number in range(5)]
    run_together(searches, squares, at_once=2)
    assert [len(batch) for batch in squares.batches] == [2, 2, 2, 2, 1, 1]


def test_searches_that_ask_nothing_are_well() -> None:
    squares = Squares()
    assert run_together([counting(0, 0)] * 3, squares, at_once=2) == [[], [], []]
    assert run_together([], squares, at_once=2) == []
    assert squares.batches == []


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failure_to_answer_is_raised_and_no_thread_is_left(
    kind: type[BaseException],
) -> None:
    def answer(questions: list[int]) -> list[int]:
        if 1 in questions:
            raise kind("no answer")
        return questions

    before = threading.active_count()
    with pytest.raises(kind, match="no answer"):
        run_together([counting(0, 5), counting(10, 5)] * 3, answer, at_once=2)
    assert threading.active_count() == before


def test_a_search_that_fails_stops_the_others() -> None:
    def failing(ask: Ask) -> list[int]:
        ask(100)
        raise RuntimeError("lost")

    squares = Squares()
    with pytest.raises(RuntimeError, match="lost"):
        run_together([counting(0, 1000), failing], squares, at_once=2)
    assert len(squares.batches) < 1000


def test_too_few_answers_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        run_together([counting(0, 1)] * 2, lambda questions: questions[:1], at_once=2)
