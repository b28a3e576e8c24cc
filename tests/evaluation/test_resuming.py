"""Interrupted runs of attacks that search, learn from answers, or run in threads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_traps.attacks.blb import BLB

from keras_traps.attacks import Attack, create
from keras_traps.attacks.carlini_wagner import CW2
from keras_traps.attacks.spsa import SPSA
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.elimination import Elimination, eliminate
from keras_traps.evaluation.engines import LocalEngine
from keras_traps.evaluation.jobs import Job
from keras_traps.evaluation.protocol import attack_all
from keras_traps.evaluation.records import Record, RecordStore
from keras_traps.models.inference import predict
from tests.evaluation.power import Power

# Of 14 images the first two leave some to the next.
ATTACKS: tuple[Attack, ...] = (
    create("SPSA", eps=0.2, nb_iter=5, learning_rate=0.05, spsa_samples=8),
    create(
        "CW2",
        binary_search_steps=2,
        max_iterations=10,
        initial_const=1.0,
        learning_rate=0.1,
    ),
    create("BLB", binary_search_steps=2, max_iterations=10, initial_const=1.0),
)
CHUNKS = 3


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Power:
    return Power(monkeypatch, SPSA, CW2, BLB)


@pytest.fixture(scope="module")
def job(digits_defence: Defence, digits_test: Dataset, digits_train: Dataset) -> Job:
    outputs = predict(digits_defence.classifier, digits_test.images)
    candidates = choose_candidates(outputs, digits_test, num_examples=14, seed=5)
    return Job(digits_defence, candidates, digits_train.images, 5)


def arrays(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*.npz")):
        with np.load(path) as archive:
            name = path.relative_to(workdir)
            found |= {f"{name}: {field}": archive[field] for field in archive.files}
    return found


def assert_same_records(workdir: Path, other: Path) -> None:
    one, same = arrays(workdir), arrays(other)
    assert one.keys() == same.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name], err_msg=name)


def test_an_interrupted_evaluation_ends_with_the_same_records(
    job: Job, power: Power, tmp_path: Path
) -> None:
    def run(workdir: Path) -> dict[Any, dict[str, Record]]:
        return attack_all(
            LocalEngine(job),
            ATTACKS,
            RecordStore(workdir, {}, resume=True),
            subjects=("undefended",),
            chunk_size=6,
        )

    whole = run(tmp_path / "whole")["undefended"]
    assert power.calls == CHUNKS * len(ATTACKS)
    for attack in ATTACKS:
        assert whole[attack.name].succeeded(targeted=attack.targeted).any()

    # At the second chunk of SPSA, the first of CW2 and the last of BLB.
    done = 0
    for fails_at in (2, 3, 6):
        power.calls, power.fails_at = 0, fails_at
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts")
        done += fails_at - 1
        assert len(list(tmp_path.glob("parts/**/*.npz"))) == done
    power.calls, power.fails_at = 0, None
    run(tmp_path / "parts")

    assert power.calls == CHUNKS * len(ATTACKS) - done
    assert_same_records(tmp_path / "parts", tmp_path / "whole")


def test_an_interrupted_elimination_ends_with_the_same_records_and_counts(
    job: Job, power: Power, tmp_path: Path
) -> None:
    def run(workdir: Path) -> Elimination:
        store = RecordStore(workdir, {}, resume=True)
        return eliminate(
            LocalEngine(job), ATTACKS, store, subject="undefended", chunk_size=6
        )

    whole = run(tmp_path / "whole")
    total = power.calls
    assert 14 == whole.tried["SPSA"] > whole.tried["CW2"] > whole.tried["BLB"] > 0
    assert whole.felled["BLB"] > 0

    # At the second chunk, at the fourth, and at the last that is attacked at all.
    done = 0
    for fails_at in (2, 3, total - 3):
        power.calls, power.fails_at = 0, fails_at
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts")
        done += fails_at - 1
        assert len(list(tmp_path.glob("parts/**/*.npz"))) == done
    power.calls, power.fails_at = 0, None

    assert run(tmp_path / "parts") == whole
    assert power.calls == total - done == 1
    assert_same_records(tmp_path / "parts", tmp_path / "whole")
