import pickle

import pytest

from keras_traps.serving.client import (
    DeadlineExceededError,
    InvalidArgumentError,
    UnavailableError,
)
from keras_traps.serving.client import retries as retries_module
from keras_traps.serving.client.retries import Backoff, Deadline


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retries_module, "time", clock)
    return clock


def unavailable(times: int) -> list[Exception]:
    return [UnavailableError("away") for _ in range(times)]


def call(backoff: Backoff, deadline: Deadline, errors: list[Exception]) -> str:
    def answer(seconds: float) -> str:
        assert seconds > 0
        if errors:
            raise errors.pop(0)
        return "answer"

    return backoff.run(answer, deadline)


def test_a_call_is_made_again_while_the_server_is_unavailable(clock: Clock) -> None:
    assert call(Backoff(3), Deadline(60), unavailable(3)) == "answer"
    assert len(clock.pauses) == 3


def test_pauses_double_up_to_the_longest_and_are_drawn(clock: Clock) -> None:
    call(Backoff(9, initial=0.1, longest=1.0), Deadline(60), unavailable(9))
    longest = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0]
    for pause, whole in zip(clock.pauses, longest, strict=True):
        assert whole / 2 <= pause <= whole
    # Drawn: four of them would not be equal otherwise.
    assert len(set(clock.pauses[-4:])) > 1


def test_the_last_failure_is_raised_with_the_number_of_attempts(clock: Clock) -> None:
    with pytest.raises(UnavailableError, match=r"UNAVAILABLE: away \(3 attempts\)"):
        call(Backoff(2), Deadline(60), unavailable(9))
    assert len(clock.pauses) == 2


def test_no_retries_means_one_attempt(clock: Clock) -> None:
    with pytest.raises(UnavailableError, match=r"^UNAVAILABLE: away$"):
        call(Backoff(0), Deadline(60), unavailable(1))
    assert clock.pauses == []


def test_no_pause_goes_beyond_the_deadline(clock: Clock) -> None:
    with pytest.raises(UnavailableError):
        call(Backoff(1000), Deadline(5), unavailable(2000))
    assert clock.now < 105


@pytest.mark.parametrize(
    "error", [InvalidArgumentError("shape"), DeadlineExceededError("late")]
)
def test_other_failures_are_not_tried_again(clock: Clock, error: Exception) -> None:
    with pytest.raises(type(error)):
        call(Backoff(5), Deadline(60), [error])
    assert clock.pauses == []


def test_after_the_deadline_nothing_is_sent(clock: Clock) -> None:
    deadline = Deadline(1)
    clock.sleep(1)
    with pytest.raises(DeadlineExceededError, match="no answer within 1 s"):
        call(Backoff(5), deadline, [])


@pytest.mark.parametrize(
    "seconds", [0, -1, float("nan"), float("inf"), 2_147_484, 1e300]
)
def test_a_deadline_that_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="`timeout`"):
        Deadline(seconds)


def test_the_longest_deadline_is_what_a_socket_can_wait() -> None:
    deadline = Deadline(2_147_483)
    assert deadline.remaining() > 2_147_000
    assert deadline.seconds * 1000 < 2**31 <= (deadline.seconds + 1) * 1000


@pytest.mark.parametrize("retries", [-1, True, 1.5])
def test_a_number_of_retries_that_is_none_is_refused(retries: int) -> None:
    with pytest.raises(ValueError, match="`retries`"):
        Backoff(retries)


def test_a_late_attempt_has_a_pause_of_the_longest() -> None:
    assert 1.0 <= Backoff(0).pause(10**6) <= 2.0


def test_errors_pass_between_processes() -> None:
    error = UnavailableError("away", attempts=4)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.code, copy.attempts) == (str(error), "UNAVAILABLE", 4)
