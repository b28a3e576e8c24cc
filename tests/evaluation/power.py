"""Attacks that are interrupted."""

from typing import Any

import pytest

from keras_traps.attacks import Attack, Batch


class Power:
    """Lets attacks run until the power fails, and counts them.

    Args:
        monkeypatch: Puts the attacks back at the end of the test.
        *attacks: The classes whose batches are counted.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *attacks: type[Attack]) -> None:
        self.calls = 0
        self.fails_at: int | None = None
        for attack in attacks:
            original = attack.perturb

            def perturb(made: Any, batch: Batch, original: Any = original) -> Any:
                self.calls += 1
                if self.calls == self.fails_at:
                    raise KeyboardInterrupt
                return original(made, batch)

            monkeypatch.setattr(attack, "perturb", perturb)
