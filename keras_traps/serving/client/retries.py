"""Deadlines, and how long to wait before a call is made again."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from keras_traps.serving.client.errors import DeadlineExceededError, UnavailableError

T = TypeVar("T")


# About 24 days. A socket waits for milliseconds of 32 bits: of more it takes what is
# left after they overflow, which may be no time at all.
_LONGEST_SECONDS = (2**31 - 1) // 1000


class Deadline:
    """A moment after which a call is given up.

    Args:
        seconds: From now; more than 0 and at most 2147483.

    Raises:
        ValueError: If `seconds` is not such a number.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds <= _LONGEST_SECONDS:
            raise ValueError(
                "Invalid value for argument `timeout`. Expected seconds greater than "
                f"0 and at most {_LONGEST_SECONDS}. Received: timeout={seconds}"
            )
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Returns the seconds that are left; negative when it has passed."""
        return self._end - time.monotonic()


class Backoff:
    """Makes a call again while the server is unavailable, with growing pauses.

    The pause before retry i is drawn uniformly between half of
    `initial * 2 ** (i - 1)`, cut at `longest`, and the whole of it, so that many
    clients do not come back at the same moment.

    Args:
        retries: How often at most a call is made again; 0 for never.
        initial: The longest first pause in seconds. Defaults to `0.1`.
        longest: The longest pause in seconds. Defaults to `2.0`.

    Raises:
        ValueError: If `retries` is negative or no integer.
    """

    def __init__(
        self, retries: int, *, initial: float = 0.1, longest: float = 2.0
    ) -> None:
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(
                "Invalid value for argument `retries`. Expected an integer of at least "
                f"0. Received: retries={retries!r}"
            )
        self.retries = retries
        self._initial = initial
        self._longest = longest

    def pause(self, attempt: int) -> float:
        """Draws the pause in seconds after an attempt; the first one is 1."""
        # A float power overflows where a shift would grow without end.
        exponent = min(attempt - 1, 60)
        longest = min(self._initial * 2.0**exponent, self._longest)
        return longest * random.uniform(0.5, 1.0)

    def run(self, call: Callable[[float], T], deadline: Deadline) -> T:
        """Makes a call until it succeeds or there is no use in going on.

        Args:
            call: Takes the seconds that are left. What it raises is passed on, except
                `UnavailableError`, after which it is made again.
            deadline: Of all attempts together.

        Returns:
            What the call returned.

        Raises:
            UnavailableError: If the last retry failed too, or the next one would come
                after the deadline.
            DeadlineExceededError: If the deadline has passed.
        """
        attempt = 1
        while True:
            seconds = deadline.remaining()
            if seconds <= 0:
                raise DeadlineExceededError(
                    f"no answer within {deadline.seconds:g} s", attempts=attempt
                )
            try:
                return call(seconds)
            except DeadlineExceededError as error:
                error.attempts = attempt
                raise
            except UnavailableError as error:
                error.attempts = attempt
                pause = self.pause(attempt)
                if attempt > self.retries or pause >= deadline.remaining():
                    raise
            time.sleep(pause)
            attempt += 1
