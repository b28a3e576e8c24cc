"""What was run to its end: an attack of one radius on one variant of M∘P."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_traps._files import make_writable, write_atomically
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.records import ArrayStore

_FOLDER = "outcomes"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of a sweep, on the first of the images.

    Args:
        settings: What was tried.
        images: On how many images.
        ac_m: How many of these M was still right on.
        dac: On how many of them M was right, or M and M∘P differed.
    """

    settings: dict[str, Any]
    images: int
    ac_m: int
    dac: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One attack, and where the records of it are.

    Args:
        threat: What the attacker has.
        variant: How M∘P was made.
        attack: The attack's name.
        eps: The radius, pixels in [0, 1].
        settings: The attack's hyper-parameters; the best of a sweep.
        note: What is to be said of the attack, or empty.
        trials: What was tried in a sweep, or nothing.
        images: How many images were attacked.
        subject: The folder of the records.
        folder: The folder in that.
        chunks: How many records there are.
        weights: Hashes of the weights of the models, by `"target"` for M, `"variant"`
            for what was trained as the variant, and `"surrogate"` where there is one.
        provenance: What a reader needs to make it again.
    """

    threat: str
    variant: str
    attack: str
    eps: float
    settings: dict[str, Any]
    note: str
    trials: tuple[Trial, ...]
    images: int
    subject: str
    folder: str
    chunks: int
    weights: dict[str, str]
    provenance: dict[str, Any]

    def read(self, store: ArrayStore[LuringRecord]) -> LuringRecord:
        """Reads what became of each image.

        Args:
            store: Where the records are.

        Returns:
            The record of all images.

        Raises:
            ValueError: If a record is damaged, or not there.
        """
        parts = [
            store.read(self.subject, self.folder, chunk) for chunk in range(self.chunks)
        ]
        return LuringRecord.join(parts).take(self.images)


def write_outcome(workdir: Path, outcome: Outcome) -> None:
    """Writes what was run; what was written of the same cell before is replaced.

    Args:
        workdir: The folder of the models.
        outcome: What was run.

    Raises:
        OSError: If it cannot be written there.
    """
    path = (
        workdir
        / _FOLDER
        / outcome.threat
        / outcome.variant
        / f"{outcome.attack}_{outcome.eps:g}.json"
    )
    make_writable(path.parent, name="workdir")
    write_atomically(path, json.dumps(dataclasses.asdict(outcome), indent=1).encode())


def read_outcomes(workdir: Path, order: Sequence[str]) -> list[Outcome]:
    """Reads all that was run.

    Args:
        workdir: The folder of the models.
        order: The attacks, in the order to list them in.

    Returns:
        The outcomes, by threat, variant, attack and radius.

    Raises:
        ValueError: If a file is damaged; the message names it.
    """
    found = [_read(path) for path in (workdir / _FOLDER).rglob("*.json")]

    def place(outcome: Outcome) -> tuple[Any, ...]:
        return (
            outcome.threat,
            outcome.variant,
            order.index(outcome.attack),
            outcome.eps,
        )

    return sorted(found, key=place)


def attack_provenance(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Gathers how what was run can be run again.

    Args:
        outcomes: What was run.

    Returns:
        The commands, numbered, and their seeds, each once.
    """
    commands = dict.fromkeys(outcome.provenance["command"] for outcome in outcomes)
    seeds = dict.fromkeys(outcome.provenance["seed"] for outcome in outcomes)
    return {
        "attacks": {str(i): command for i, command in enumerate(commands, 1)},
        "attack seed": list(seeds),
    }


def _read(path: Path) -> Outcome:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        trials = tuple(Trial(**trial) for trial in content.pop("trials"))
        return Outcome(**content, trials=trials)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The outcome {path} is damaged ({error}). Delete it, and attack again "
            "with `--resume`."
        ) from error
