"""Runs attacks in pieces that are recorded, so that a run that is killed goes on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from keras_traps.attacks import Attack
from keras_traps.attacks.presets_luring import LURING_SWEEPS
from keras_traps.evaluation.luring.outcomes import Outcome, Trial
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.luring.subjects import Subject
from keras_traps.evaluation.protocol import record_folder
from keras_traps.evaluation.records import ArrayStore
from keras_traps.luring.metrics import luring_metrics


class Runner:
    """Attacks images piece by piece, and keeps what is done.

    Args:
        store: Where records are kept.
        chunk_size: How many images are attacked at once and recorded together.
        seed: Of the attacks' randomness.
        bar: Shows how many images are attacked.
    """

    def __init__(
        self,
        store: ArrayStore[LuringRecord],
        *,
        chunk_size: int,
        seed: int,
        bar: tqdm.tqdm[Any],
    ) -> None:
        self._store = store
        self._chunk_size = chunk_size
        self._seed = seed
        self._bar = bar

    def run(self, subject: Subject, attack: Attack, first: int, last: int) -> None:
        """Counts images from `first` to `last` as attacked, and attacks up to `last`.

        Args:
            subject: What is attacked.
            attack: The attack.
            first: How many images were counted before.
            last: How many are to be attacked.
        """
        for chunk, start in enumerate(range(0, last, self._chunk_size)):
            stop = min(start + self._chunk_size, last)
            fresh = self._extend(subject, attack, chunk, start, stop)
            counted = max(0, stop - max(start, first))
            if fresh:
                self._bar.update(counted)
            elif not self._bar.disable:
                # What an earlier run did says nothing of the rate of this one.
                self._bar.initial += counted
                self._bar.n += counted

    def read(self, subject: Subject, attack: Attack, count: int) -> LuringRecord:
        """Reads what became of the first images.

        Args:
            subject: What was attacked.
            attack: The attack.
            count: How many images.

        Returns:
            The record.
        """
        folder = record_folder(attack)
        parts = [
            self._store.read(subject.folder, folder, chunk)
            for chunk in range(self.chunks(count))
        ]
        return LuringRecord.join(parts).take(count)

    def chunks(self, count: int) -> int:
        """Returns how many records hold a number of images."""
        return -(-count // self._chunk_size)

    def _extend(
        self, subject: Subject, attack: Attack, chunk: int, start: int, stop: int
    ) -> bool:
        """Attacks what of a piece is not recorded; says whether anything was left."""
        place = (subject.folder, record_folder(attack), chunk)
        done: list[LuringRecord] = []
        if self._store.has(*place):
            record = self._store.read(*place)
            # A sweep, or a run over fewer images, ends with a shorter record; a run
            # over more leaves a longer one.
            common = min(len(record), stop - start)
            if np.array_equal(record.ids[:common], subject.ids[start:][:common]):
                done = [record]
        known = sum(map(len, done))
        if known >= stop - start:
            return False
        self._bar.set_description(
            f"{attack.name} {getattr(attack, 'eps', 0):g} on {subject.variant}"
        )
        rest = subject.run(attack, slice(start + known, stop), seed=self._seed)
        self._store.write(*place, LuringRecord.join([*done, rest]))
        return True


def settings_to_try(attack: Attack, *, sweep: bool) -> list[Attack]:
    """Returns an attack with each of the settings that the paper tries.

    Args:
        attack: The attack.
        sweep: Whether to try any but its own.

    Returns:
        At least one attack.
    """
    changes = LURING_SWEEPS.get(attack.name, [{}]) if sweep else [{}]
    return [dataclasses.replace(attack, **change) for change in changes]


def work(
    attacks: Sequence[Attack],
    count: int,
    count_sweep: int,
    *,
    sweep: bool,
    choices: int = 1,
) -> int:
    """Returns how many images are attacked in all, those of sweeps included.

    Args:
        attacks: The attacks, of all radii.
        count: How many images there are.
        count_sweep: On how many of these settings are compared.
        sweep: Whether settings are compared.
        choices: How many choices of the attacker are, each with every setting.
            Defaults to `1`.

    Returns:
        A number of images.
    """
    tried = [choices * len(settings_to_try(attack, sweep=sweep)) for attack in attacks]
    first = min(count, count_sweep)
    return sum(n * first + count - first if n > 1 else count for n in tried)


def attack_subject(
    choices: Sequence[Subject],
    attacks: Sequence[Attack],
    runner: Runner,
    *,
    count_sweep: int,
    sweep: bool,
    provenance: Callable[[], dict[str, Any]],
) -> Iterator[Outcome]:
    """Runs every attack on one subject, going on from what is recorded.

    Of an attack with a sweep every setting meets the first images, and the best of them
    all: the one that leaves M right on the fewest, and of those the one with the
    smallest DAC. So does every choice that the attacker has.

    Args:
        choices: What is attacked: one subject, or the same with several choices of the
            attacker.
        attacks: The attacks, of all radii.
        runner: What runs them.
        count_sweep: On how many images settings are compared.
        sweep: Whether they are; else the attacks have their own settings.
        provenance: What a reader needs to make it again, at the time of asking.

    Yields:
        What was run, as soon as it was.
    """
    count = len(choices[0].ids)
    for attack in attacks:
        settings = settings_to_try(attack, sweep=sweep)
        tried = list(itertools.product(choices, settings))
        trials: list[Trial] = []
        (subject, best), first = tried[0], 0
        if len(tried) > 1:
            first = min(count, count_sweep)
            for subject, one in tried:
                runner.run(subject, one, 0, first)
                record = runner.read(subject, one, first)
                trials.append(_trial(_settings(subject, one), record))
            ranks = [(trial.ac_m, trial.dac) for trial in trials]
            subject, best = tried[ranks.index(min(ranks))]
        runner.run(subject, best, first, count)
        yield Outcome(
            threat=subject.threat,
            variant=subject.variant,
            attack=best.name,
            eps=float(best.linf_bound or 0),
            settings=_settings(subject, best),
            note=best.note,
            trials=tuple(trials),
            images=count,
            subject=subject.folder,
            folder=record_folder(best),
            chunks=runner.chunks(count),
            weights=dict(subject.weights),
            provenance=provenance(),
        )


def _settings(subject: Subject, attack: Attack) -> dict[str, Any]:
    return {**attack.settings(), **subject.choice}


def _trial(settings: dict[str, Any], record: LuringRecord) -> Trial:
    measured = luring_metrics(**record.answers)
    return Trial(settings, len(record), measured.ac_m.count, measured.dac.count)
