"""The three comparisons of attacks: in speed, in strength and in memory."""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator

import tqdm
from absl import app

from benchmarks import _attack_outcomes, _measure
from benchmarks._attack_cases import Case, all_cases
from benchmarks._attack_libraries import Cleverhans, KerasTraps, Library, Run
from benchmarks._attack_rivals import ART, Foolbox
from benchmarks._attack_victim import Choice, Victim, load_victim
from keras_traps._checks import FloatArray
from keras_traps.devices import hush_retracing

LIBRARIES: dict[str, type[Library]] = {
    library.name: library for library in (KerasTraps, Cleverhans, Foolbox, ART)
}
"""By their names, ours first."""

_OURS = KerasTraps.name

_MEBIBYTE = 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compared, in a form that goes from process to process.

    Args:
        choice: The victim.
        attacks: The names of the cases; `None` for all.
        libraries: The names of the libraries, all of which are installed.
        batch_size: How many images are attacked at once.
        radius: See `all_cases`.
        compiled: See `Library`.
    """

    choice: Choice
    attacks: tuple[str, ...] | None
    libraries: tuple[str, ...]
    batch_size: int
    radius: float
    compiled: bool

    def cases(self, victim: Victim) -> list[Case]:
        """Lists the cases.

        Args:
            victim: What is attacked.

        Raises:
            app.UsageError: If there is none of a name.
        """
        cases = {
            case.name: case
            for case in all_cases(victim.images.shape[1:], radius=self.radius)
        }
        if unknown := [name for name in self.attacks or () if name not in cases]:
            raise app.UsageError(
                f"--attacks knows {', '.join(cases)}. Received: {', '.join(unknown)}"
            )
        return [cases[name] for name in self.attacks or cases]

    def runs(self, victim: Victim) -> Iterator[tuple[Case, dict[str, Run]]]:
        """Yields each case with the attacks of the libraries that have it."""
        libraries = {name: self.library(name, victim) for name in self.libraries}
        for case in tqdm.tqdm(self.cases(victim), unit="attack"):
            runs = {name: library.run(case) for name, library in libraries.items()}
            yield case, {name: run for name, run in runs.items() if run is not None}

    def library(self, name: str, victim: Victim) -> Library:
        """Returns a library of a name with the victim to attack."""
        return LIBRARIES[name](
            victim, batch_size=self.batch_size, compiled=self.compiled
        )


def measure_strength(plan: Plan, victim: Victim) -> list[_measure.Row]:
    """Attacks once with each library.

    Args:
        plan: What is compared.
        victim: What is attacked.

    Returns:
        A row for every attack and library that has it.
    """
    return [
        row
        for case, runs in plan.runs(victim)
        for row in _strengths(
            victim, case, {name: run() for name, run in runs.items()}
        ).values()
    ]


def measure_speed(
    plan: Plan, victim: Victim, *, repeats: int, memory: bool
) -> list[_measure.Row]:
    """Attacks with each library in turn, again and again.

    Args:
        plan: What is compared.
        victim: What is attacked.
        repeats: How many rounds are timed.
        memory: Whether to measure memory, one process per row.

    Returns:
        A row for every attack and library that has it.
    """
    rows = []
    for case, runs in plan.runs(victim):
        watched = {name: _Watched(run) for name, run in runs.items()}
        times = _measure.time_calls(watched, repeats)
        strengths = _strengths(
            victim, case, {name: call.images for name, call in watched.items()}
        )
        compared = _measure.compare(times, _OURS) if _OURS in times else {}
        for name, own in times.items():
            row = strengths[name] | compared.get(name, {})
            row["seconds"] = 1e-3 * _measure.milliseconds(own)
            row["first_seconds"] = watched[name].first_seconds
            if case.steps is not None:
                steps = case.steps * len(victim.images)
                row["image_steps"] = steps / row["seconds"]
            if memory:
                row["memory"] = _memory(plan, case, name, len(victim.images))
            rows.append(row)
    return rows


def measure_memory(
    plan: Plan, victim: Victim, *, counts: Iterable[int]
) -> list[_measure.Row]:
    """Attacks more and more images, each number in a process of its own.

    Args:
        plan: What is compared.
        victim: What is attacked; its images are repeated where there are fewer.
        counts: How many images.

    Returns:
        A row for every attack, library that has it, and number of images.
    """
    rows = []
    for case, runs in plan.runs(victim):
        for name in runs:
            few: _measure.Row | None = None
            for count in sorted(counts):
                row: _measure.Row = {
                    "attack": case.name,
                    "library": name,
                    "examples": count,
                    "memory": _memory(plan, case, name, count),
                    "images_memory": count * victim.images[0].nbytes / _MEBIBYTE,
                }
                if few is None:
                    few = row
                else:
                    more = row["memory"] - few["memory"]
                    row["growth"] = more / (row["images_memory"] - few["images_memory"])
                rows.append(row)
    return rows


class _Watched:
    """An attack whose first call is timed, and whose last images are kept."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.first_seconds: float | None = None
        self.images: FloatArray

    def __call__(self) -> None:
        start = time.perf_counter()
        self.images = self._run()
        if self.first_seconds is None:
            self.first_seconds = time.perf_counter() - start


def _strengths(
    victim: Victim, case: Case, images: dict[str, FloatArray]
) -> dict[str, _measure.Row]:
    outcomes = {
        name: _attack_outcomes.judge(victim, case, made)
        for name, made in images.items()
    }
    rows = {}
    for name, outcome in outcomes.items():
        row = {"attack": case.name, "library": name}
        row |= _attack_outcomes.summary(outcome)
        if name != _OURS and _OURS in outcomes:
            row |= _attack_outcomes.compare(case, outcomes[_OURS], outcome)
        rows[name] = row
    return rows


def _memory(plan: Plan, case: Case, library: str, count: int) -> float:
    prepare = functools.partial(_prepare, plan, case.name, library, count)
    return _measure.extra_memory(prepare)[0] / _MEBIBYTE


def _prepare(plan: Plan, attack: str, library: str, count: int) -> list[_measure.Call]:
    hush_retracing()
    victim = load_victim(plan.choice).repeated(count)
    (case,) = dataclasses.replace(plan, attacks=(attack,)).cases(victim)
    run = plan.library(library, victim).run(case)
    return [] if run is None else [run]
