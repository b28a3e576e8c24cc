import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from keras_traps.attacks import Attack, Batch, Perturbed, create
from keras_traps.attacks.base import Kind
from keras_traps.datasets import Dataset
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.engines import LocalEngine
from keras_traps.evaluation.jobs import Job
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


def run(engine: Any, workdir: Path, *attacks: Attack) -> dict[Any, dict[str, Record]]:
    return attack_all(
        engine,
        attacks,
        RecordStore(workdir, {}),
        subjects=("undefended", "integrated"),
        chunk_size=4,
    )


def assert_alike(one: Record, other: Record) -> None:
    for name in ("ids", "labels", "goals", "answers", "iterations"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("correlations", "l2", "linf", "kept"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)


def test_records_are_those_of_a_local_run(
    engine: RayEngine, job: Job, tmp_path: Path
) -> None:
    attacks = (
        create("PGD", eps=0.2, eps_iter=0.05, nb_iter=4),
        create("LLC", eps=0.2),
    )
    spread = run(engine, tmp_path / "ray", *attacks)
    local = run(LocalEngine(job), tmp_path / "local", *attacks)
    for subject, by_attack in local.items():
        for name, record in by_attack.items():
            assert_alike(record, spread[subject][name])


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
