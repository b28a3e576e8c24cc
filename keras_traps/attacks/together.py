"""Many searches at once that share one batched evaluation.

For optimisers that call a function of one example: each search runs in a thread of its
own, and what all of them ask is answered in one batch.
"""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class _Asked(NamedTuple, Generic[Question, Answer]):
    search: int
    question: Question
    answer: "Future[Answer]"


class _Ended(NamedTuple):
    failure: BaseException | None


def run_together(
    searches: Sequence[Callable[[Callable[[Question], Answer]], Result]],
    answer: Callable[[list[Question]], Sequence[Answer]],
    *,
    at_once: int,
) -> list[Result]:
    """Runs searches together.

    Args:
        searches: Each is given a function that asks one question, and returns a result.
        answer: Answers a list of questions, one of each search that is under way, in
            the order of the searches: the same lists at every call, however the threads
            are scheduled. It is called in the caller's thread.
        at_once: How many searches are under way at once. One that ends makes place for
            the next.

    Returns:
        The results, in the order of the searches.

    Raises:
        BaseException: What `answer` or a search raised first. The other searches are
            stopped at their next question.
    """
    messages: queue.SimpleQueue[_Asked[Question, Answer] | _Ended] = queue.SimpleQueue()

    def run(number: int) -> Result:
        def ask(question: Question) -> Answer:
            asked = _Asked[Question, Answer](number, question, Future())
            messages.put(asked)
            return asked.answer.result()

        try:
            result = searches[number](ask)
        except BaseException as failure:
            messages.put(_Ended(failure))
            raise
        messages.put(_Ended(None))
        return result

    with ThreadPoolExecutor(at_once) as threads:
        # A thread that is free takes the first search that waits, so that the searches
        # under way are the first ones that have not ended.
        futures = [threads.submit(run, number) for number in range(len(searches))]
        _serve(messages, answer, len(searches), at_once)
        return [future.result() for future in futures]


def _serve(
    messages: "queue.SimpleQueue[_Asked[Question, Answer] | _Ended]",
    answer: Callable[[list[Question]], Sequence[Answer]],
    left: int,
    at_once: int,
) -> None:
    """Answers until all searches have ended, also after a failure: none may hang."""
    failure: BaseException | None = None
    waiting: list[_Asked[Question, Answer]] = []
    while left:
        try:
            message = messages.get()
            if isinstance(message, _Ended):
                left -= 1
                failure = failure or message.failure
            else:
                waiting.append(message)
            complete = waiting and len(waiting) == min(at_once, left)
            if complete and failure is None:
                # Not as they came: another place in the batch may round otherwise.
                waiting.sort(key=lambda asked: asked.search)
                answers = answer([asked.question for asked in waiting])
                for asked, given in list(zip(waiting, answers, strict=True)):
                    asked.answer.set_result(given)
                waiting = []
        except BaseException as error:
            failure = failure or error
        if failure is not None:
            for asked in waiting:
                if not asked.answer.done():
                    asked.answer.set_exception(failure)
            waiting = []
    if failure is not None:
        raise failure
