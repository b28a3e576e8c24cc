"""Variables of the environment, set for a while."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable of the environment, and sets it back at the end.

    Args:
        name: Its name.
        value: Its value meanwhile.

    Yields:
        Nothing.
    """
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
