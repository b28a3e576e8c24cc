"""What the benchmarks share: clocks, a memory gauge, and the files they leave."""

import datetime
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

Call = Callable[[], Any]

# A call shorter than this is made again and again until as many seconds are over.
_SHORTEST_TIMING = 0.1


def time_calls(calls: Mapping[str, Call], repeats: int) -> dict[str, list[float]]:
    """Times calls in turn, so that each sees the machine as busy as the others do.

    Args:
        calls: By name, what to time. Each is made once before, untimed.
        repeats: How many rounds. Every second one goes backwards.

    Returns:
        By name, one time per round in seconds. For a call shorter than 0.1 s it is
        the median of as many as fit into that.
    """
    for call in calls.values():
        _finish(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        order = list(calls) if repeat % 2 == 0 else list(reversed(calls))
        for name in order:
            times[name].append(_time(calls[name]))
    return times


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median over the rounds of one time divided by another."""
    return float(np.median(np.divide(numerators, denominators)))


def extra_memory(prepare: Callable[[], Iterable[Call]]) -> list[int]:
    """Measures in a new process how much memory calls need beyond what is held.

    Args:
        prepare: A function of a module, or a `functools.partial` of one, that makes
            the calls. Each is made once before it is measured.

    Returns:
        For each call, by how many bytes the peak of the resident set during it lies
        above the resident set before it. Linux only.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_extra_memory_here, prepare).result()


def provenance(module: str, values: flags.FlagValues) -> dict[str, Any]:
    """Returns what a reader needs to run a benchmark again.

    Args:
        module: Its name, e.g. `"benchmarks.qim"`.
        values: Its parsed flags. `--output` is left out: it changes no number.
    """
    given = [
        flag.serialize()
        for name, flag in values.__flags.items()
        if flag.present and name != "output"
    ]
    return {
        "command": " ".join(["python -m", module, *given]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Returns rows with the same keys as a Markdown table: text left, numbers right."""
    names = list(rows[0])
    rule = [":--", *["--:"] * (len(names) - 1)]
    lines = [names, rule, *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
