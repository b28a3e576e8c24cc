"""What the benchmarks share: a clock, a memory gauge, a table and its files."""

import datetime
import gc
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

# So that --help shows them as the benchmark's own.
flags.disclaim_key_flags()

Call = Callable[[], Any]
Clock = Callable[[], float]
Row = dict[str, Any]
Columns = Mapping[str, tuple[str, str]]
"""By the key of a row: the column's head and the format of its values."""

# A shorter call is made again and again until as many seconds are over.
_SHORTEST_TIMING = 0.1


def time_calls(
    calls: Mapping[str, Call], repeats: int, *, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Times calls in turn, so that each finds the machine as busy as the others do.

    Each is made once before, untimed; every second round goes backwards.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name in list(calls)[:: -1 if repeat % 2 else 1]:
            own: list[float] = []
            while sum(own) < _SHORTEST_TIMING:
                start = clock()
                calls[name]()
                own.append(clock() - start)
            times[name].append(float(np.median(own)))
    return times


def milliseconds(times: Sequence[float]) -> float:
    """Returns the median of times in seconds as milliseconds."""
    return 1e3 * float(np.median(times))


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median over the rounds of one time divided by another."""
    return float(np.median(np.divide(numerators, denominators)))


def compare(times: Mapping[str, Sequence[float]], base: str) -> dict[str, Row]:
    """Returns each call's `ratio` to the base, the rounds' median, and `quartiles`."""
    rows = {}
    for name in times.keys() - {base}:
        ratios = np.divide(times[name], times[base])
        rows[name] = {
            "ratio": float(np.median(ratios)),
            "quartiles": np.quantile(ratios, (0.25, 0.75)).tolist(),
        }
    return rows


def extra_memory(prepare: Callable[[], Iterable[Call]]) -> list[int]:
    """Measures in a new process what calls need beyond the memory held already."""
    spawn = multiprocessing.get_context("spawn")
    # On CPUs for which TensorFlow turns oneDNN on, its allocator keeps what was freed:
    # a second run would need nothing new.
    with (
        mock.patch.dict(os.environ, TF_ENABLE_ONEDNN_OPTS="0"),
        ProcessPoolExecutor(1, mp_context=spawn) as process,
    ):
        return process.submit(_extra_memory_here, prepare).result()


def _extra_memory_here(prepare: Callable[[], Iterable[Call]]) -> list[int]:
    extra = []
    for call in prepare():
        call()
        gc.collect()
        # Sets the peak back to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        call()
        extra.append(_resident("VmHWM") - before)
    return extra


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def define_flags(values: flags.FlagValues, repeats: int, least: int = 1) -> None:
    """Defines the flags that all benchmarks have."""
    told = "How many rounds are timed."
    flags.DEFINE_integer(
        "repeats", repeats, told, lower_bound=least, flag_values=values
    )
    told = (
        "Where to write the results to, as <output>.json and <output>.md. Files that "
        "are there are replaced."
    )
    flags.DEFINE_string("output", None, told, flag_values=values)


def run(
    module: str,
    argv: Sequence[str],
    values: flags.FlagValues,
    measure: Callable[[], Sequence[Row]],
    *,
    title: str,
    columns: Columns,
    notes: str,
) -> None:
    """Measures, prints the table, and writes it where `--output` says.

    Words on the command line that are no flags are refused before anything is measured.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {' '.join(argv[1:])}")
    facts = provenance(module, values)
    rows = measure()
    table = markdown_table(rows, columns)
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    text = f"# {title}\n\n{table}\n\n{notes}\n\n{lines}\n"
    print(text)
    if values.output is None:
        return
    path = Path(values.output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"title": title, "provenance": facts, "rows": rows, "notes": notes}
    path.with_name(f"{path.name}.json").write_text(json.dumps(data, indent=2) + "\n")
    path.with_name(f"{path.name}.md").write_text(text, "utf-8")


def provenance(module: str, values: flags.FlagValues) -> Row:
    """Returns what a reader needs to run a benchmark again.

    `--output` is left out, it changes no number; so are the folders of absolute paths,
    which say nothing on another machine.
    """
    words = ["python -m", module]
    for flag in (values[name] for name in values if name != "output"):
        # A flag of several values has a line for each.
        for line in flag.serialize().splitlines() if flag.present else ():
            name, equals, value = line.partition("=")
            shown = Path(value).name if Path(value).is_absolute() else value
            words.append(f"{name}{equals}{shown}")
    return {
        "command": " ".join(words),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        # Below 0 it went before others that made up the load.
        "niceness": os.nice(0),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def markdown_table(rows: Sequence[Row], columns: Columns) -> str:
    """Returns rows as a Markdown table, with a dash for a value that is missing."""
    lines = [[head for head, _ in columns.values()]]
    lines.append([":--", *["--:"] * (len(columns) - 1)])
    for row in rows:
        forms = [(key, form) for key, (_, form) in columns.items()]
        lines.append([f.format(row[key]) if key in row else "–" for key, f in forms])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
