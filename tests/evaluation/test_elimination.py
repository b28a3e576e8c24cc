import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from keras_traps._checks import IntArray
from keras_traps.attacks import Attack, Batch, Perturbed
from keras_traps.attacks.base import Kind
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.elimination import Elimination, eliminate
from keras_traps.evaluation.engines import LocalEngine
from keras_traps.evaluation.jobs import Job, Subject
from keras_traps.evaluation.records import RecordStore
from keras_traps.models.inference import predict


@dataclasses.dataclass(frozen=True)
class Run:
    """Runs an elimination of 20 candidates in one folder."""

    job: Job
    workdir: Path

    @property
    def ids(self) -> IntArray:
        return self.job.candidates.ids

    @property
    def labels(self) -> IntArray:
        return self.job.candidates.labels

    def __call__(
        self,
        attacks: Sequence[Attack],
        *,
        subject: Subject = "paper",
        chunk_size: int = 8,
    ) -> Elimination:
        store = RecordStore(self.workdir, {}, resume=True)
        return eliminate(
            LocalEngine(self.job),
            attacks,
            store,
            subject=subject,
            chunk_size=chunk_size,
        )


class Swap(Attack):
    """Gets through with the examples whose id has this remainder: shows another."""

    remainder: ClassVar[int]
    kind: ClassVar[Kind] = "UA"
    seen: ClassVar[list[int]]

    def perturb(self, batch: Batch) -> Perturbed:
        self.seen.extend(batch.ids.tolist())
        images = batch.images.copy()
        for row, number in enumerate(batch.ids):
            if number % 3 == self.remainder:
                images[row] = self.other(batch.labels[row])
        return Perturbed(images, 1)

    @staticmethod
    def other(label: int) -> Any:
        raise NotImplementedError


@pytest.fixture
def swaps(digits_defence: Defence, digits_test: Dataset) -> list[Swap]:
    """Attacks that show a clean image of another class: wrong and unsuspicious."""
    flagged = digits_defence.main_analyzer.detect(digits_test.images).is_adversarial
    answers = predict(digits_defence.trapped, digits_test.images).argmax(axis=1)
    by_class = {
        label: digits_test.images[np.flatnonzero(~flagged & (answers == label))[0]]
        for label in range(10)
    }
    made: list[Swap] = []
    for number, remainder in enumerate((0, 0, 1)):
        body = {
            "name": f"Swap{number}",
            "remainder": remainder,
            "seen": [],
            "other": staticmethod(lambda label: by_class[(int(label) + 1) % 10]),
        }
        made.append(type(f"Swap{number}", (Swap,), body)())
    return made


@pytest.fixture
def run(
    digits_defence: Defence, digits_test: Dataset, digits_train: Dataset, tmp_path: Path
) -> Run:
    outputs = predict(digits_defence.classifier, digits_test.images)
    candidates = choose_candidates(outputs, digits_test, num_examples=20, seed=0)
    return Run(Job(digits_defence, candidates, digits_train.images, 0), tmp_path)


def remainders(run: Run) -> Any:
    return np.bincount(run.ids % 3)


def test_only_what_still_stands_goes_to_the_next_attack(
    run: Run, swaps: list[Swap]
) -> None:
    found = run(swaps)

    zeros, ones, twos = remainders(run)
    names = [attack.name for attack in swaps]
    assert [found.tried[name] for name in names] == [20, 20 - zeros, 20 - zeros]
    assert [found.felled[name] for name in names] == [zeros, 0, ones]
    assert (found.overall.count, found.overall.total) == (20 - twos, 20)
    assert [len(attack.seen) for attack in swaps] == [20, ones + twos, ones + twos]


def test_a_second_run_reads_what_the_first_one_wrote(
    run: Run, swaps: list[Swap]
) -> None:
    first = run(swaps)
    for attack in swaps:
        attack.seen.clear()
    assert run(swaps) == first
    assert not any(attack.seen for attack in swaps)


def test_another_order_is_another_run(run: Run, swaps: list[Swap]) -> None:
    run(swaps)
    for attack in swaps:
        attack.seen.clear()

    found = run(swaps[::-1])

    assert found.felled[swaps[0].name] == 0
    assert len(swaps[1].seen) == found.tried[swaps[1].name]


def test_what_is_flagged_has_not_got_through(
    run: Run,
    digits_defence: Defence,
    swaps: list[Swap],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Noise is flagged; on C there is nobody to flag it.
    noise = np.random.default_rng(0).random((8, 8, 1), np.float32)
    assert digits_defence.main_analyzer.detect(noise[None]).is_adversarial.all()
    swap = type(swaps[0])
    monkeypatch.setattr(swap, "other", staticmethod(lambda label: noise))

    assert run(swaps[:1]).overall.count == 0
    seen_as = predict(digits_defence.classifier, noise[None]).argmax()
    found = run(swaps[:1], subject="undefended")
    others = run.labels[run.ids % 3 == 0] != seen_as
    assert found.overall.count == others.sum() > 0


def test_no_attacks_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"`attacks`. Expected at least one"):
        run([])


def test_two_attacks_of_one_name_are_refused(run: Run, swaps: list[Swap]) -> None:
    with pytest.raises(ValueError, match=r"`attacks`.*twice. Received: Swap0, Swap0"):
        run([swaps[0], swaps[0]])
    assert not swaps[0].seen


def test_chunks_of_no_images_are_refused(run: Run, swaps: list[Swap]) -> None:
    with pytest.raises(ValueError, match=r"`chunk_size`. Expected at least 1"):
        run(swaps, chunk_size=0)
