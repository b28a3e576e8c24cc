"""The tasks of an evaluation on the cores and GPUs of a Ray cluster."""

import dataclasses
import importlib
import pickle
import uuid
from typing import Any, cast

import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attacks.uap import UAP
from keras_traps.attacks.universal import UniversalPerturbation
from keras_traps.attractors import ForensicAnalyzer, Thresholds
from keras_traps.devices import hush_retracing, limit_threads, prepare_devices
from keras_traps.evaluation.candidates import Candidates
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.jobs import Job, Subject, Task
from keras_traps.evaluation.records import Record
from keras_traps.evaluation.shared_learning import can_share, with_known
from keras_traps.models.outputs import Output

_RETRIES = 3


class RayEngine:
    """Does tasks as Ray tasks, one per core, or one per GPU where there are any.

    A cluster that runs already, named by the environment variable `RAY_ADDRESS`, is
    used; else one is started on this machine and ends with the process. A task whose
    worker dies is done again by another, up to three times. Models of a user's own
    classes must be importable, and registered with Keras, on every machine.

    A universal perturbation is learnt by the first task that needs it, and given to the
    others of the same attack and subject: all images have the same one, and it is not
    learnt by each worker. A subclass of UAP with a `perturb` of its own is run as any
    other attack.

    Args:
        job: What all tasks need. It is sent to each worker once.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(self, job: Job) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise ImportError(
                'The engine "ray" needs Ray: pip install ".[ray]"'
            ) from error
        self.job = job
        self._ray = ray
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        per_task = (
            {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        )
        self._run = ray.remote(max_retries=_RETRIES, **per_task)(_run)
        self._run_universal = ray.remote(
            max_retries=_RETRIES, num_returns=2, **per_task
        )(_run_universal)
        self._packed = ray.put(pack(job))
        self._count = 0
        self._handles: dict[Any, int] = {}
        self._learnt: dict[tuple[Subject, UAP], Any] = {}

    def submit(self, task: Task) -> int:
        """Sends a task to the cluster."""
        self._count += 1
        self._handles[self._send(task)] = self._count
        return self._count

    def finished(self) -> tuple[int, Record]:
        """Waits for whichever task is done first.

        Returns:
            Its handle and its record.

        Raises:
            IndexError: If there is none.
            ray.exceptions.RayError: If it failed.
        """
        if not self._handles:
            raise IndexError("There is no task to wait for.")
        (reference,), _ = self._ray.wait(list(self._handles), num_returns=1)
        handle = self._handles.pop(reference)
        record: Record = self._ray.get(reference)
        return handle, record

    def _send(self, task: Task) -> Any:
        """Returns the reference of the record to come."""
        if not can_share(task.attack):
            return self._run.remote(self._packed, task)
        # Each worker would learn its own, which rounding makes another's. Ray holds a
        # task back until what it is given is there.
        same = task.subject, cast(UAP, task.attack)
        record, learnt = self._run_universal.remote(
            self._packed, task, self._learnt.get(same)
        )
        self._learnt.setdefault(same, learnt)
        return record


@dataclasses.dataclass(frozen=True)
class PackedJob:
    """A job that can be sent to another process.

    Args:
        models: The pickled classifier, trapped model and recovery classifier.
        output: What the classifier returns.
        thresholds: By nominal false-positive rate.
        recovery_weight: See `Defence`.
        candidates: The images to attack.
        background: See `Job`.
        seed: See `Job`.
        token: Tells it from others.
    """

    models: bytes
    output: Output
    thresholds: dict[float, Thresholds]
    recovery_weight: float
    candidates: Candidates
    background: FloatArray
    seed: int
    token: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def unpack(self) -> Job:
        """Makes the job anew.

        Returns:
            A job whose tasks give the same records, up to rounding.
        """
        classifier, trapped, recovery_classifier = pickle.loads(self.models)
        analyzers = {}
        for fpr, thresholds in self.thresholds.items():
            analyzers[fpr] = ForensicAnalyzer(trapped).with_thresholds(thresholds)
        defence = Defence(
            classifier,
            self.output,
            trapped,
            analyzers,
            self.recovery_weight,
            recovery_classifier,
        )
        return Job(defence, self.candidates, self.background, self.seed)


def pack(job: Job) -> PackedJob:
    """Makes a job fit to be sent.

    Args:
        job: The job.

    Returns:
        The same as plain data; Keras models pickle as their `.keras` file.
    """
    defence = job.defence
    return PackedJob(
        pickle.dumps(
            (defence.classifier, defence.trapped, defence.recovery_classifier)
        ),
        defence.output,
        {fpr: analyzer.thresholds for fpr, analyzer in defence.analyzers.items()},
        defence.recovery_weight,
        job.candidates,
        job.background,
        job.seed,
    )


# The job of this worker, by its token.
_mine: dict[str, Job] = {}


def _run(packed: PackedJob, task: Task) -> Record:
    """Runs in a worker."""
    return _job(packed).run(task)


def _run_universal(
    packed: PackedJob, task: Task, known: UniversalPerturbation | None
) -> tuple[Record, UniversalPerturbation]:
    """Runs in a worker, which learns the perturbation if it is not known."""
    shared = [] if known is None else [known]
    attack = with_known(cast(UAP, task.attack), shared)
    record = _job(packed).run(dataclasses.replace(task, attack=attack))
    return record, shared[0]


def _job(packed: PackedJob) -> Job:
    """Returns the job of this worker, which keeps its models from task to task."""
    if packed.token not in _mine:
        if not tf.config.list_physical_devices("GPU"):
            # Ray gave this task one core; TensorFlow would take all.
            limit_threads(1)
        prepare_devices()
        hush_retracing()
        _mine.clear()
        _mine[packed.token] = packed.unpack()
    return _mine[packed.token]
