import dataclasses
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras_traps.attacks.universal import UniversalPerturbation

from keras_traps.attacks import Attack, Batch, Perturbed, create
from keras_traps.attacks.base import Kind
from keras_traps.attacks.uap import UAP
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.engines import LocalEngine
from keras_traps.evaluation.jobs import Job, Subject
from keras_traps.evaluation.protocol import attack_all
from keras_traps.evaluation.ray_engine import RayEngine, pack
from keras_traps.evaluation.records import Record, RecordStore
from keras_traps.models.inference import predict

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings("default")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadly(Attack):
    """Kills the process that it runs in, once for each marker that is not there."""

    marker: str
    name: ClassVar[str] = "Deadly"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> Perturbed:
        marker = Path(f"{self.marker}-{batch.ids[0]}")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Perturbed(1 - batch.images, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Personal(UAP):
    """Learns another perturbation each time, as if no two workers rounded alike."""

    marker: str
    name: ClassVar[str] = "Personal"

    def learn(self, batch: Batch) -> UniversalPerturbation:
        token = uuid.uuid4()
        Path(f"{self.marker}-{token}").touch()
        draw = np.random.default_rng(token.int)
        change = draw.uniform(0, self.eps, batch.images.shape[1:])
        return UniversalPerturbation(change.astype(np.float32), 1, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Half(UAP):
    """Goes half the way."""

    name: ClassVar[str] = "Half"

    def perturb(self, batch: Batch) -> Perturbed:
        whole = super().perturb(batch)
        return Perturbed((batch.images + whole.images) / 2, whole.iterations)


@pytest.fixture(scope="module")
def job(digits_defence: Defence, digits_test: Dataset, digits_train: Dataset) -> Job:
    outputs = predict(digits_defence.classifier, digits_test.images)
    candidates = choose_candidates(outputs, digits_test, num_examples=10, seed=0)
    return Job(digits_defence, candidates, digits_train.images[:50], 4)


@pytest.fixture(scope="module")
def engine(job: Job) -> Iterator[RayEngine]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}},
    )
    yield RayEngine(job)
    ray.shutdown()


def run(
    engine: Any,
    workdir: Path,
    *attacks: Attack,
    subjects: tuple[Subject, ...] = ("undefended", "integrated"),
) -> dict[Any, dict[str, Record]]:
    store = RecordStore(workdir, {})
    return attack_all(engine, attacks, store, subjects=subjects, chunk_size=4)


def assert_alike(one: Record, other: Record) -> None:
    for field in dataclasses.fields(Record):
        expected, found = getattr(one, field.name), getattr(other, field.name)
        exact = np.issubdtype(expected.dtype, np.integer)
        atol = 0 if exact else 1e-5
        np.testing.assert_allclose(found, expected, 0, atol, err_msg=field.name)


def test_a_packed_job_keeps_the_recovery_classifier(job: Job) -> None:
    assert pack(job).unpack().defence.recovery_classifier is None
    asked = keras.models.clone_model(job.defence.classifier)
    defence = dataclasses.replace(job.defence, recovery_classifier=asked)
    unpacked = pack(dataclasses.replace(job, defence=defence)).unpack()
    again = unpacked.defence.recovery_classifier
    assert again is not None
    images = job.candidates.images
    np.testing.assert_array_equal(predict(again, images), predict(asked, images))


# The searches make a few steps only: many would amplify another rounding.
@pytest.mark.parametrize(
    ("subjects", "attacks"),
    [
        (
            ("undefended", "integrated"),
            (
                create("PGD", eps=0.2, eps_iter=0.05, nb_iter=4),
                create("LLC", eps=0.2),
                create("UAP", eps=0.2, nb_images=20, max_iter=2, fooling_rate=0.9),
            ),
        ),
        (
            ("undefended",),
            (
                create("SPSA", eps=0.2, nb_iter=2, spsa_samples=4),
                create(
                    "CW2",
                    binary_search_steps=1,
                    max_iterations=10,
                    initial_const=1,
                    learning_rate=0.1,
                ),
                create("BLB", binary_search_steps=1, max_iterations=3, initial_const=1),
            ),
        ),
    ],
    ids=["gradients", "searches"],
)
def test_records_are_those_of_a_local_run(
    subjects: tuple[Subject, ...],
    attacks: tuple[Attack, ...],
    engine: RayEngine,
    job: Job,
    tmp_path: Path,
) -> None:
    spread = run(engine, tmp_path / "ray", *attacks, subjects=subjects)
    local = run(LocalEngine(job), tmp_path / "local", *attacks, subjects=subjects)
    for subject, by_attack in local.items():
        for name, record in by_attack.items():
            assert_alike(record, spread[subject][name])
            assert record.l0.any()


def test_a_universal_perturbation_is_learnt_once_for_all_chunks_of_a_subject(
    engine: RayEngine, job: Job, tmp_path: Path
) -> None:
    attack = Personal(eps=0.1, marker=str(tmp_path / "learnt"))

    found = run(engine, tmp_path / "ray", attack)

    assert len(list(tmp_path.glob("learnt-*"))) == len(found) == 2
    changes = []
    for by_attack in found.values():
        change = by_attack["Personal"].kept - job.candidates.images
        inside = by_attack["Personal"].kept < 1
        # Of three chunks; where nothing was cut off at 1, all images tell the same.
        largest = np.where(inside, change, 0).max(axis=0)
        assert np.abs(change - largest)[inside].max() < 1e-6
        changes.append(largest)
    assert np.abs(changes[0] - changes[1]).max() > 0.01


def test_a_subclass_of_uap_does_what_it_does_locally(
    engine: RayEngine, job: Job, tmp_path: Path
) -> None:
    attack = Half(eps=0.2, nb_images=20, max_iter=1)
    spread = run(engine, tmp_path / "ray", attack, subjects=("undefended",))
    local = run(LocalEngine(job), tmp_path / "local", attack, subjects=("undefended",))
    record = local["undefended"]["Half"]
    assert_alike(record, spread["undefended"]["Half"])
    assert record.linf.max() == pytest.approx(0.1)


def test_the_task_of_a_killed_worker_is_done_again(
    engine: RayEngine, job: Job, tmp_path: Path
) -> None:
    attack = Deadly(marker=str(tmp_path / "killed"))

    found = run(engine, tmp_path / "ray", attack)

    # One kill for each chunk, whichever subject it met first.
    assert len(list(tmp_path.glob("killed-*"))) == 3
    local = run(LocalEngine(job), tmp_path / "local", attack)
    for subject, by_attack in local.items():
        assert_alike(by_attack["Deadly"], found[subject]["Deadly"])


def test_a_job_comes_back_as_it_was(job: Job) -> None:
    again = pack(job).unpack()
    images = job.candidates.images
    np.testing.assert_allclose(
        predict(again.defence.trapped, images),
        predict(job.defence.trapped, images),
        atol=1e-6,
    )
    assert again.defence.main_analyzer.thresholds == (
        job.defence.main_analyzer.thresholds
    )
    assert list(again.defence.analyzers) == list(job.defence.analyzers)


def test_nothing_to_wait_for_is_told(engine: RayEngine) -> None:
    with pytest.raises(IndexError, match="no task"):
        engine.finished()
