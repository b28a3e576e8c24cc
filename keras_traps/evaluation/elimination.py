"""The worst case over many attacks, at the cost of the images that still stand.

As AutoAttack does: an image that an attack got through with is not given to the next.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tqdm

from keras_traps._checks import IntArray, check_count, check_distinct
from keras_traps.attacks import Attack
from keras_traps.evaluation.engines import Engine
from keras_traps.evaluation.jobs import Subject, Task
from keras_traps.evaluation.protocol import record_folder, recorded
from keras_traps.evaluation.records import Record, RecordStore
from keras_traps.evaluation.results import INTEGRATED
from keras_traps.rates import Rate


@dataclasses.dataclass(frozen=True)
class Elimination:
    """What is left of the candidates after all attacks.

    Args:
        subject: What was attacked.
        tried: By attack, how many images still stood when it began.
        felled: By attack, how many of these it got through with.
        overall: How many images some attack got through with.
    """

    subject: Subject
    tried: dict[str, int]
    felled: dict[str, int]
    overall: Rate


def eliminate(
    engine: Engine,
    attacks: Sequence[Attack],
    store: RecordStore,
    *,
    subject: Subject = "paper",
    chunk_size: int,
) -> Elimination:
    """Gives each attack the images that no attack before it got through with.

    To get through is to be misclassified, and, on a variant that an analyzer watches,
    not flagged at its largest false-positive rate.

    Args:
        engine: Where the work is done.
        attacks: The attacks in their order, the cheap ones first; no two of one name.
        store: Where records are kept; a run that is interrupted goes on from them.
        subject: What is attacked. Defaults to `"paper"`, the trapped model.
        chunk_size: How many images are attacked at once, at least 1.

    Returns:
        How many each attack felled, and how many fell in all.

    Raises:
        ValueError: If there are no attacks or two of one name, or `chunk_size` is out
            of its range. Nothing is run.
    """
    check_distinct("attacks", [attack.name for attack in attacks])
    check_count("chunk_size", chunk_size)
    count = len(engine.job.candidates.ids)
    parts = [
        np.arange(start, min(start + chunk_size, count))
        for start in range(0, count, chunk_size)
    ]
    tried = dict.fromkeys((attack.name for attack in attacks), 0)
    felled = dict(tried)
    waiting: dict[int, tuple[int, Task]] = {}

    with tqdm.tqdm(total=count * len(attacks), unit="image", smoothing=0.05) as bar:

        def go_on(place: int, chunk: int, rows: IntArray) -> None:
            """Gives what stands of a chunk to the next attacks, as far as recorded."""
            while place < len(attacks):
                attack = attacks[place]
                task = Task(
                    subject,
                    attack,
                    rows,
                    f"standing/{record_folder(attack, *attacks[:place])}",
                    chunk,
                )
                record = recorded(engine, store, task) if len(rows) else None
                if len(rows) and record is None:
                    waiting[engine.submit(task)] = (place, task)
                    return
                if record is not None:
                    through = _through(engine, subject, record)
                    tried[attack.name] += len(rows)
                    felled[attack.name] += int(through.sum())
                    rows = rows[~through]
                bar.update(len(parts[chunk]))
                place += 1

        for chunk, rows in enumerate(parts):
            go_on(0, chunk, rows)
        while waiting:
            handle, record = engine.finished()
            place, task = waiting.pop(handle)
            store.write(subject, task.folder, task.chunk, record)
            bar.set_description(f"{task.attack.name} on {subject}")
            # Read again from its record, so that a resumed run takes the same way.
            go_on(place, task.chunk, task.rows)
    return Elimination(subject, tried, felled, Rate(sum(felled.values()), count))


def _through(engine: Engine, subject: Subject, record: Record) -> npt.NDArray[np.bool_]:
    if subject == "undefended" or subject in INTEGRATED:
        return record.misclassified
    verdict = engine.job.defence.main_analyzer.judge(record.correlations)
    unnoticed: npt.NDArray[np.bool_] = record.misclassified & ~verdict.is_adversarial
    return unnoticed
