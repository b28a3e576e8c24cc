"""When a call is made again, by the clock and by the count."""

import itertools
from collections.abc import Callable

import pytest

from keras_traps.serving import Client
from keras_traps.serving.client import (
    DeadlineExceededError,
    InvalidArgumentError,
    UnavailableError,
    VersionStatus,
    protocol,
)
from keras_traps.serving.client import client as client_module

AVAILABLE = [VersionStatus(1, "AVAILABLE")]


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
    monkeypatch.setattr(client_module, "time", clock)
    monkeypatch.setattr(protocol, "time", clock)
    return clock


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    """Makes clients whose server fails as told, then answers."""

    def make(errors: list[Exception], *, retries: int = 8) -> Client:
        def status(version: int | None, timeout: float) -> list[VersionStatus]:
            assert timeout > 0
            if errors:
                raise errors.pop(0)
            return AVAILABLE

        client = Client("http://localhost:8501", "m", retries=retries)
        monkeypatch.setattr(client._transport, "status", status)
        return client

    return make


def unavailable(times: int) -> list[Exception]:
    return [UnavailableError("away")] * times


def test_a_call_is_made_again_while_the_server_is_unavailable_and_there_is_time(
    clock: Clock, asked: Callable[..., Client]
) -> None:
    assert asked(unavailable(3), retries=3).status() == AVAILABLE
    assert len(clock.pauses) == 3
    with pytest.raises(UnavailableError, match=r"UNAVAILABLE: away \(3 attempts\)"):
        asked(unavailable(9), retries=2).status()
    with pytest.raises(UnavailableError, match=r"^UNAVAILABLE: away$"):
        asked(unavailable(1), retries=0).status()
    assert len(clock.pauses) == 5
    start = clock.now
    with pytest.raises(UnavailableError):
        asked(unavailable(2000), retries=1000).status(timeout=5)
    assert 2 < clock.now - start < 5


@pytest.mark.parametrize(
    "error", [InvalidArgumentError("shape"), DeadlineExceededError("late")]
)
def test_other_failures_are_not_tried_again(
    clock: Clock, asked: Callable[..., Client], error: Exception
) -> None:
    with pytest.raises(type(error)):
        asked([error]).status()
    assert clock.pauses == []


def test_waiting_ends_at_its_deadline_and_says_what_was_seen(
    clock: Clock, asked: Callable[..., Client]
) -> None:
    assert asked(unavailable(20)).wait_until_available() == 1
    with pytest.raises(DeadlineExceededError, match=r"not available after 5 s: UNAV"):
        asked(unavailable(99)).wait_until_available(timeout=5)


def test_pauses_double_up_to_2_seconds_and_are_drawn() -> None:
    first, second = (list(itertools.islice(client_module._pauses(), 7)) for _ in "12")
    for pause, least in zip(first, (0.0, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0), strict=True):
        assert least <= pause <= least + 0.1
    assert (first[0], max(first)) == (0.0, 2.0)
    assert first != second
