"""The engine "ray": slow, for each worker imports TensorFlow."""

import dataclasses
import os
import signal
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pandas as pd
import pytest

from keras_traps.attacks import (
    LURING_SWEEPS,
    Attack,
    Batch,
    Kind,
    Perturbed,
    create,
)
from keras_traps.attacks.deepfool import UAP, UniversalPerturbation
from keras_traps.datasets import Dataset
from keras_traps.evaluation.metrics import make_frame
from keras_traps.evaluation.records import RecordStore, Run
from keras_traps.evaluation.runner import EngineName, attack_all, worst_case
from keras_traps.evaluation.subjects import (
    Defence,
    RecordJudge,
    Subject,
    Watermark,
    attractor_subjects,
    choose_examples,
    model_subject,
)
from keras_traps.models.inference import predict
from tests.evaluation.conftest import Lured, threatened

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]


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

    def _learn(self, model: Any, images: Any, *others: Any) -> UniversalPerturbation:
        token = uuid.uuid4()
        Path(f"{self.marker}-{token}").touch()
        draw = np.random.default_rng(token.int)
        change = draw.uniform(0, self.eps, images.shape[1:]).astype(np.float32)
        return UniversalPerturbation(change, 1, 0.5)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def subjects(digits_defence: Defence, digits_test: Dataset) -> list[Subject]:
    outputs = predict(digits_defence.classifier, digits_test.images)
    examples = choose_examples(digits_test, [outputs], num_examples=10)
    return attractor_subjects(digits_defence, examples, ["undefended", "integrated"])


def run(
    engine: EngineName,
    subjects: Sequence[Any],
    workdir: Path,
    background: Any,
    *attacks: Attack,
    **changes: Any,
) -> tuple[list[Run], RecordStore]:
    store = RecordStore(workdir / engine, {})
    settings: dict[str, Any] = {"background": background, "seed": 4, **changes}
    runs = attack_all(subjects, attacks, store, chunk_size=4, engine=engine, **settings)
    return sorted(runs, key=lambda run: (run.subject, run.attack)), store


def assert_alike(
    one: tuple[list[Run], RecordStore],
    other: tuple[list[Run], RecordStore],
    detector: RecordJudge | None = None,
) -> None:
    assert one[0] == other[0]
    first, second = (make_frame(*each, detector) for each in (one, other))
    pd.testing.assert_frame_equal(first, second, rtol=0, atol=1e-5)


# The searches make a few steps only: many would amplify another rounding.
ATTACKS = (
    create("PGD", eps=0.2, eps_iter=0.05, nb_iter=4),
    create("LLC", eps=0.2),
    create("UAP", eps=0.2, nb_images=20, max_iter=2, fooling_rate=0.9),
    create("SPSA", eps=0.2, nb_iter=2, spsa_samples=4),
    create("BLB", binary_search_steps=1, max_iterations=3, initial_const=1),
)


def test_records_are_those_of_a_local_run(
    subjects: list[Subject],
    digits_defence: Defence,
    digits_train: Dataset,
    tmp_path: Path,
) -> None:
    background = digits_train.images[:50]
    spread = run("ray", subjects, tmp_path, background, *ATTACKS)
    local = run("local", subjects, tmp_path, background, *ATTACKS)
    assert len(local[0]) == 10
    assert_alike(local, spread, Watermark(digits_defence.analyzers))


def test_sweeps_and_the_worst_case_are_those_of_a_local_run(
    subjects: list[Subject], lured: Lured, tmp_path: Path
) -> None:
    few = lured.examples.take(slice(10))
    swept = [threatened(lured, one, examples=few) for one in ("luring", "exchanged")]
    attack = create("DIM", eps=0.2, eps_iter=0.1, nb_iter=2)
    sweep: dict[str, Any] = {"sweeps": LURING_SWEEPS, "num_examples_sweep": 6}
    spread = run("ray", swept, tmp_path, None, attack, **sweep)
    assert_alike(run("local", swept, tmp_path, None, attack, **sweep), spread)
    chosen = (create("FGSM", eps=0.1), ATTACKS[0])
    store = RecordStore(tmp_path / "worst", {})
    again = RecordStore(tmp_path / "again", {})
    found = worst_case(subjects[0], chosen, store, chunk_size=4)
    assert worst_case(subjects[0], chosen, again, chunk_size=4, engine="ray") == found


def test_a_universal_perturbation_is_learnt_once_for_all_chunks_of_a_subject(
    subjects: list[Subject], digits_classifier: keras.Model, tmp_path: Path
) -> None:
    attack = Personal(eps=0.1, marker=str(tmp_path / "learnt"))
    # One of the models is attacked in another form than its own.
    image = keras.Input((8, 8, 1))
    grey = keras.Model(image, digits_classifier(keras.layers.Rescaling(1 / 255)(image)))
    own = model_subject(grey, subjects[0].examples, name="grey", bounds=(0.0, 255.0))
    whole = [dataclasses.replace(one, kept=10) for one in (*subjects, own)]

    found, store = run("ray", whole, tmp_path, None, attack)

    assert len(list(tmp_path.glob("learnt-*"))) == len(found) == 3
    changes = []
    for one in found:
        parts = [store.read(one.folder, chunk)["kept"] for chunk in range(one.chunks)]
        images = np.concatenate(parts)
        # Rounding may leave what was cut off at 1 a little below.
        change, inside = images - subjects[0].examples.images, images < 1 - 1e-6
        # Of three chunks; where nothing was cut off at 1, all images tell the same.
        largest = np.where(inside, change, 0).max(axis=0)
        assert np.abs(change - largest)[inside].max() < 1e-6
        changes.append(largest)
    assert np.abs(changes[0] - changes[1]).max() > 0.01


def test_the_task_of_a_killed_worker_is_done_again(
    subjects: list[Subject], tmp_path: Path
) -> None:
    attack = Deadly(marker=str(tmp_path / "killed"))

    found = run("ray", subjects, tmp_path, None, attack)

    # One kill for each chunk, whichever subject it met first.
    assert len(list(tmp_path.glob("killed-*"))) == 3
    assert_alike(run("local", subjects, tmp_path, None, attack), found)
