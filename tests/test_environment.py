import os

import pytest

from keras_traps._environment import environment

NAME = "KERAS_TRAPS_TEST"


@pytest.mark.parametrize("before", [None, "", "before"])
def test_a_variable_is_set_back_even_after_an_error(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv(NAME, raising=False)
    else:
        monkeypatch.setenv(NAME, before)

    def fail() -> None:
        with environment(NAME, "meanwhile"):
            raise RuntimeError(os.environ[NAME])

    with pytest.raises(RuntimeError, match=r"^meanwhile$"):
        fail()
    assert os.environ.get(NAME) == before
