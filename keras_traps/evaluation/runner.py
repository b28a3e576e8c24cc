"""Runs attacks in chunks that are recorded, here or on a Ray cluster.

Each attack on each subject is a course: a generator that asks for tasks, gets their
records, and ends with what came of it. One scheduler leads all courses at once, takes
what is recorded already from the store, and gives the rest to an engine.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import pickle
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import numpy as np
import tensorflow as tf
import tqdm

from keras_traps._checks import FloatArray, IntArray, check_count, check_distinct
from keras_traps.attacks import Attack, distances
from keras_traps.attacks.deepfool import UAP, learnt_on
from keras_traps.devices import hush_retracing, limit_threads, prepare_devices
from keras_traps.evaluation.records import (
    Record,
    RecordStore,
    Run,
    Trial,
    folder_of,
)
from keras_traps.evaluation.subjects import TITLES, Subject
from keras_traps.models.inference import batch_size_for, predict
from keras_traps.models.logits import attacked_form
from keras_traps.models.outputs import answers_of
from keras_traps.rates import Rate

EngineName = Literal["local", "ray"]
"""In this process, or on the cores and GPUs of a Ray cluster.

The cluster that `RAY_ADDRESS` names is used, else one is started on this machine. A
user's own model classes must be importable, and registered with Keras, everywhere.
"""

_RETRIES = 3
_SUBJECTS_PER_WORKER = 4

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """An attack on some of a subject's examples, by their `rows`, and its record."""

    subject: Subject
    attack: Attack
    rows: IntArray
    folder: str
    chunk: int


Course = Generator[list[Task], list[Record], _Result]


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """What remains of the examples after many attacks."""

    subject: str
    tried: dict[str, int]  # by attack, how many images still stood when it began
    felled: dict[str, int]  # how many of these it got through with
    overall: Rate  # images that some attack got through with


def attack_all(
    subjects: Sequence[Subject | Sequence[Subject]],
    attacks: Sequence[Attack],
    store: RecordStore,
    *,
    background: FloatArray | None = None,
    seed: int = 0,
    chunk_size: int = 250,
    limits: Mapping[str, int] | None = None,
    sweeps: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    num_examples_sweep: int | None = None,
    engine: EngineName = "local",
    provenance: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Runs every attack on every subject, going on from what is recorded.

    Of an attack with a sweep every setting meets the first images, and the best of them
    all: the one that fails on the fewest; of luring, the one that leaves M right on the
    fewest, and of those the one with the smallest DAC. So does every choice that an
    attacker has. An attack is left out on a subject whose loss it does not follow, that
    lacks the detector it needs, or that tells of one it has no use for.

    Args:
        subjects: What is attacked. Several in a sequence of their own are one subject
            with several choices of the attacker.
        attacks: The attacks, no two of one name and radius.
        store: Where records are kept; a run that is interrupted goes on from them.
        background: `(images, height, width, channels)`, in [0, 1]: images without
            labels, for attacks that learn from many. Defaults to the subject's
            examples.
        seed: Seed of the attacks' randomness.
        chunk_size: How many images are recorded together, and attacked at once where
            they are small.
        limits: How many images an attack meets at most, by its name. Defaults to all.
        sweeps: Changes of an attack's settings to try, by its name, such as
            `keras_traps.attacks.LURING_SWEEPS`.
        num_examples_sweep: On how many images settings are compared. Defaults to all.
        engine: Where the attacks run.
        provenance: What a reader needs to make it again.

    Yields:
        What was run, as soon as it was, and then in `runs/` of the store's directory.

    Raises:
        ImportError: If Ray is asked for and not installed.
        ValueError: If an argument is out of its range. Nothing is run.
    """
    check_distinct(
        "attacks", [f"{one.name} {one.linf_bound or 0:g}" for one in attacks]
    )
    check_count("chunk_size", chunk_size)
    known = sorted({attack.name for attack in attacks})
    for name, limit in (limits or {}).items():
        if name not in known:
            raise ValueError(
                "Invalid value for argument `limits`. Expected of "
                f"{', '.join(known)}. Received: {name!r}"
            )
        check_count(f"limits[{name!r}]", limit)
    if num_examples_sweep is not None:
        check_count("num_examples_sweep", num_examples_sweep)
    worker = _engine(engine, background, seed)
    courses: list[Course[Run]] = []
    total = 0
    for each in subjects:
        choices = [each] if isinstance(each, Subject) else list(each)
        for attack in filter(choices[0].follows, attacks):
            count = len(choices[0].examples)
            count = min(count, (limits or {}).get(attack.name, count))
            few = min(count, num_examples_sweep or count)
            changes = (sweeps or {}).get(attack.name, [{}])
            settings = [dataclasses.replace(attack, **change) for change in changes]
            tried = list(itertools.product(choices, settings))
            total += count + (few * len(tried) if len(tried) > 1 else 0)
            courses.append(_course(tried, count, few, chunk_size, provenance or {}))
    for run in _lead(courses, worker, store, total):
        run.write(store.workdir)
        yield run


def worst_case(
    subject: Subject,
    attacks: Sequence[Attack],
    store: RecordStore,
    *,
    background: FloatArray | None = None,
    seed: int = 0,
    chunk_size: int = 250,
    engine: EngineName = "local",
) -> WorstCase:
    """Gives each attack the images that no attack before it got through with.

    To get through is to be misclassified, and, where a detector watches, not flagged at
    its largest false-positive rate. The worst case over all attacks costs so no more
    than the images that still stand, as AutoAttack does it.

    The attacks are in their order, the cheap ones first, no two of one name. All else
    is as in `attack_all`, the errors too.
    """
    check_distinct("attacks", [attack.name for attack in attacks])
    check_count("chunk_size", chunk_size)
    worker = _engine(engine, background, seed)
    known = [attack for attack in attacks if subject.follows(attack)]
    course = _standing(subject, known, chunk_size)
    [found] = _lead([course], worker, store, len(subject.examples) * len(known))
    return found


def run_task(task: Task, background: FloatArray | None, seed: int) -> Record:
    """Does a task."""
    subject, everything = task.subject, task.subject.examples
    examples = everything.take(task.rows)
    # Whatever the pieces, two change places.
    crafted = everything.take(task.rows ^ 1) if subject.exchanged else examples
    targets = crafted.targets(task.attack)
    result = task.attack(
        subject.attacked,
        subject.taken(crafted.images),
        crafted.labels,
        bounds=subject.bounds,
        output=subject.output,
        y_target=targets,
        seed=seed,
        ids=crafted.ids,
        background=subject.taken(
            everything.images if background is None else background
        ),
        batch_size=batch_size_for(crafted.images.shape[1:], most=len(crafted)),
        loss=subject.loss,
        detector=subject.told,
    )
    # What the model sees, and what is recorded, in [0, 1].
    seen, answers = result.images, result.answers
    images = subject.in_unit(seen, crafted.images)
    if subject.exchanged:
        images = np.clip(examples.images + (images - crafted.images), 0.0, 1.0)
        seen = subject.taken(images)
        outputs = predict(subject.attacked, seen)
        answers = answers_of(outputs, subject.output).argmax(axis=1)
    moved = distances(examples.images, images)
    return Record(
        {
            "ids": examples.ids,
            "labels": examples.labels,
            "targets": examples.labels if targets is None else targets,
            **moved._asdict(),
            "iterations": result.iterations,
            "kept": images[: subject.kept],
            "answer": answers,
            **({} if subject.told is None else {"rejections": result.rejections}),
            **{name: ask(seen) for name, ask in subject.questions.items()},
        }
    )


def _course(
    tried: Sequence[tuple[Subject, Attack]],
    count: int,
    few: int,
    chunk_size: int,
    provenance: Mapping[str, Any],
) -> Course[Run]:
    """One attack on one subject, with all that the attacker may choose among."""
    (subject, attack), trials = tried[0], []
    if len(tried) > 1:
        parts = [_tasks(*one, few, chunk_size) for one in tried]
        records = iter((yield list(itertools.chain.from_iterable(parts))))
        for one, part in zip(tried, parts, strict=True):
            found = Record.join([next(records) for _ in part], kept=0)
            failed = ~found.succeeded(targeted=one[1].targeted)
            standing, defended = failed, found.defended
            if defended is None:
                defended = failed
            else:
                standing = found["target"] == found["labels"]
            counts = int(standing.sum()), int(defended.sum())
            trials.append(Trial(_settings(*one), few, *counts))
        best = min(trials, key=lambda trial: (trial.standing, trial.defended))
        subject, attack = tried[trials.index(best)]
    tasks = _tasks(subject, attack, count, chunk_size)
    yield tasks
    return Run(
        subject=subject.name,
        attack=attack.name,
        kind=attack.kind,
        knowledge=attack.knowledge,
        eps=float(attack.linf_bound or 0),
        settings=_settings(subject, attack),
        note=attack.note,
        trials=tuple(trials),
        images=count,
        integrated=subject.integrated,
        about=dict(subject.about),
        facts=dict(subject.facts),
        folder=tasks[0].folder,
        chunks=len(tasks),
        provenance=dict(provenance),
    )


def _standing(
    subject: Subject, attacks: Sequence[Attack], size: int
) -> Course[WorstCase]:
    """All attacks, each on what still stands."""
    count, tried, felled = len(subject.examples), {}, {}
    standing = _chunks(count, size)
    for place, attack in enumerate(attacks):
        folder = _folder(subject, *attacks[: place + 1], within="standing/")
        tasks = [
            Task(subject, attack, rows, folder, chunk)
            for chunk, rows in enumerate(standing)
            if len(rows)
        ]
        tried[attack.name] = sum(map(len, standing))
        for task, record in zip(tasks, (yield tasks), strict=True):
            through = record.misclassified
            if subject.detector is not None and not subject.integrated:
                flagged = subject.detector.judge(record).flagged
                through = through & ~flagged[max(flagged)]
            standing[task.chunk] = task.rows[~through]
        felled[attack.name] = tried[attack.name] - sum(map(len, standing))
    return WorstCase(subject.name, tried, felled, Rate(sum(felled.values()), count))


def _tasks(subject: Subject, attack: Attack, count: int, size: int) -> list[Task]:
    folder = _folder(subject, attack)
    parts = enumerate(_chunks(count, size))
    return [Task(subject, attack, rows, folder, chunk) for chunk, rows in parts]


def _folder(subject: Subject, *attacks: Attack, within: str = "") -> str:
    facts = [dict(each) for each in (subject.facts, subject.choice) if each]
    settings = [[attack.name, attack.settings()] for attack in attacks]
    last = folder_of(attacks[-1].name, settings)
    return f"{folder_of(subject.name, facts)}/{within}{last}"


def _chunks(count: int, size: int) -> list[IntArray]:
    return [np.arange(i, min(i + size, count)) for i in range(0, count, size)]


def _settings(subject: Subject, attack: Attack) -> dict[str, Any]:
    return {**attack.settings(), **subject.choice}


class _LocalEngine:
    """Does one task after the other, in this process."""

    together = False  # whether all courses are led at once, or one after the other

    def __init__(self, background: FloatArray | None, seed: int) -> None:
        self._background, self._seed = background, seed
        self._tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        """Takes a task."""
        self._tasks.append(task)

    def finished(self) -> tuple[Task, Record]:
        """Waits until a task is done."""
        task = self._tasks.pop(0)
        return task, run_task(task, self._background, self._seed)


def _lead(
    courses: Sequence[Course[_Result]],
    engine: _LocalEngine,
    store: RecordStore,
    total: int,
) -> Iterator[_Result]:
    """Leads all courses to their ends, and yields the result of each."""
    # What can go on: a course with the records of the tasks that it asked for last.
    ready: list[tuple[Course[_Result], Any]] = [(one, None) for one in courses[::-1]]
    # What an engine does: of which course, what is there of all its tasks, and which
    # of these, and the whole task.
    waiting: dict[Task, tuple[Course[_Result], list[Record | None], int, Task]] = {}
    with tqdm.tqdm(total=total, unit="image", smoothing=0.05) as bar:
        while ready or waiting:
            if ready and (engine.together or not waiting):
                course, records = ready.pop()
                try:
                    tasks = course.send(records)
                except StopIteration as end:
                    yield end.value
                    continue
                found = [_recorded(store, task) for task in tasks]
                for index, (task, record) in enumerate(zip(tasks, found, strict=True)):
                    done = 0 if record is None else len(record)
                    if not bar.disable:
                        # What an earlier run did tells nothing of this one's rate.
                        bar.initial += done
                        bar.n += done
                    if done < len(task.rows):
                        rest = dataclasses.replace(task, rows=task.rows[done:])
                        waiting[rest] = course, found, index, task
                        engine.submit(rest)
            else:
                rest, new = engine.finished()
                course, found, index, task = waiting.pop(rest)
                name = TITLES.get(task.subject.name, task.subject.name)
                bar.set_description(f"{task.attack.name} on {name}")
                bar.update(len(new))
                known = found[index]
                if known is not None:
                    new = Record.join([known, new], kept=task.subject.kept)
                store.write(task.folder, task.chunk, new)
                found[index] = new
            if all(one is not course for one, *_ in waiting.values()):
                ready.append((course, found))


def _recorded(store: RecordStore, task: Task) -> Record | None:
    """Returns what is recorded of a task's first images, or `None`."""
    if not store.has(task.folder, task.chunk):
        return None
    record = store.read(task.folder, task.chunk)
    # A sweep, or a run over fewer images, ends with a shorter record; a run over more
    # leaves a longer one.
    common = min(len(record), len(task.rows))
    ids = task.subject.examples.ids[task.rows[:common]]
    return record.take(common) if np.array_equal(record["ids"][:common], ids) else None


class _RayEngine(_LocalEngine):
    """Does tasks as Ray tasks, one per core, or one per GPU where there are any."""

    together = True

    def __init__(self, background: FloatArray | None, seed: int) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise ImportError(
                'The engine "ray" needs Ray: pip install ".[ray]"'
            ) from error
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        super().__init__(ray.put(background), seed)
        self._ray = ray
        unit = "num_gpus" if ray.cluster_resources().get("GPU") else "num_cpus"
        options = {"max_retries": _RETRIES, "num_returns": 2, unit: 1}
        self._work = ray.remote(**options)(_work)
        self._packed: dict[Subject, Any] = {}
        self._known: dict[Any, Any] = {}
        self._doing: dict[Any, Task] = {}

    def submit(self, task: Task) -> None:
        subject = task.subject
        if subject not in self._packed:
            # Verdicts are made here: of the detector, only what it asks is sent. Keras
            # models are pickled as their `.keras` files, each once.
            sent = dataclasses.replace(subject, asked=subject.questions, detector=None)
            packed = self._ray.cloudpickle.dumps(sent)
            self._packed[subject] = self._ray.put(packed)
        # Each worker would learn its own perturbation, which rounding makes another's.
        # Ray holds a task back until what it is given is there.
        same = (subject, task.attack) if isinstance(task.attack, UAP) else None
        record, learnt = self._work.remote(
            self._packed[subject].hex(),
            self._packed[subject],
            dataclasses.replace(task, subject=cast(Any, None)),
            self._background,
            self._seed,
            self._known.get(same),
        )
        if same:
            self._known.setdefault(same, learnt)
        self._doing[record] = task

    def finished(self) -> tuple[Task, Record]:
        (reference,), _ = self._ray.wait(list(self._doing), num_returns=1)
        return self._doing.pop(reference), self._ray.get(reference)


# The subjects of this worker, by their tokens, each with its traced models.
_mine: dict[str, Subject] = {}


def _work(
    token: str,
    packed: bytes,
    task: Task,
    background: FloatArray | None,
    seed: int,
    known: Any,
) -> tuple[Record, Any]:
    """Runs in a worker; the second result is what a universal attack has learnt."""
    if not _mine:
        if not tf.config.list_physical_devices("GPU"):
            # Ray gave this task one core; TensorFlow would take all.
            limit_threads(1)
        prepare_devices()
        hush_retracing()
    if token not in _mine:
        while len(_mine) >= _SUBJECTS_PER_WORKER:
            del _mine[next(iter(_mine))]
        _mine[token] = pickle.loads(packed)
    subject = _mine[token]
    attacked = attacked_form(subject.attacked, subject.output, subject.bounds)
    learnt = learnt_on(attacked)
    learnt.update(known or {})
    record = run_task(dataclasses.replace(task, subject=subject), background, seed)
    return record, dict(learnt)


def _engine(name: str, background: FloatArray | None, seed: int) -> _LocalEngine:
    engines = {"local": _LocalEngine, "ray": _RayEngine}
    if name not in engines:
        raise ValueError(
            "Invalid value for argument `engine`. Expected 'local' or 'ray'. Received: "
            f"engine={name!r}"
        )
    return engines[name](background, seed)
