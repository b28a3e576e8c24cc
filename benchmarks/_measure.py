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

import keras
import numpy as np
import tensorflow as tf
from absl import flags

Call = Callable[[], Any]
Row = dict[str, Any]
Columns = Mapping[str, tuple[str, str]]
"""By the key of a row: the column's head and the format of its values."""

# A shorter call is made again and again until as many seconds are over.
_SHORTEST_TIMING = 0.1


def time_calls(calls: Mapping[str, Call], repeats: int) -> dict[str, list[float]]:
    """Times calls in turn, so that each finds the machine as busy as the others do.

    Args:
        calls: By name, what to time. Each is made once before, untimed.
        repeats: How many rounds. Every second one goes backwards.

    Returns:
        By name, one time per round in seconds. For a call shorter than 0.1 s it is
        the median of as many as fit into that.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name in list(calls)[:: -1 if repeat % 2 else 1]:
            times[name].append(_time(calls[name]))
    return times


def milliseconds(times: Sequence[float]) -> float:
    """Returns the median of times in seconds as milliseconds."""
    return 1e3 * float(np.median(times))


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median over the rounds of one time divided by another."""
    return float(np.median(np.divide(numerators, denominators)))


def extra_memory(prepare: Callable[[], Iterable[Call]]) -> list[int]:
    """Measures in a new process what calls need beyond the memory held already.

    Args:
        prepare: A function of a module, or a `functools.partial` of one, that makes
            the calls. Each is made once before it is measured.

    Returns:
        For each call, by how many bytes the peak of the resident set during it lies
        above the resident set before it. On Linux only.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_extra_memory_here, prepare).result()


def define_flags(values: flags.FlagValues, repeats: int) -> None:
    """Defines the flags that all benchmarks have.

    Args:
        values: Where to define them.
        repeats: The default number of rounds.
    """
    flags.DEFINE_integer(
        "repeats",
        repeats,
        "How many rounds are timed.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "Where to write the results to, as <output>.json and <output>.md. Files that "
        "are there are replaced.",
        flag_values=values,
    )


def provenance(module: str, values: flags.FlagValues) -> Row:
    """Returns what a reader needs to run a benchmark again.

    Args:
        module: The benchmark's name, e.g. `"benchmarks.qim"`.
        values: Its parsed flags. `--output` is left out, it changes no number.
    """
    given = [values[name] for name in values if name != "output"]
    command = ["python -m", module, *(f.serialize() for f in given if f.present)]
    return {
        "command": " ".join(command),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def markdown_table(rows: Sequence[Row], columns: Columns) -> str:
    """Returns rows as a Markdown table: the first column left, the others right.

    Args:
        rows: Values by key; a missing one is shown as a dash.
        columns: What to show, in this order.
    """
    lines = [
        [head for head, _ in columns.values()],
        [":--", *["--:"] * (len(columns) - 1)],
    ]
    for row in rows:
        lines.append(
            [
                form.format(row[key]) if key in row else "–"
                for key, (_, form) in columns.items()
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def publish(
    output: str | None,
    *,
    title: str,
    facts: Row,
    rows: Sequence[Row],
    columns: Columns,
    notes: str,
) -> None:
    """Prints a benchmark's results and writes them as JSON and as Markdown.

    Args:
        output: Where to write to, without a suffix; `None` for nowhere.
        title: A line for the top.
        facts: What `provenance` returned.
        rows: The numbers.
        columns: Those to show.
        notes: How to read them.
    """
    table = markdown_table(rows, columns)
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    text = f"# {title}\n\n{table}\n\n{notes}\n\n{lines}\n"
    print(text)
    if output is None:
        return
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"title": title, "provenance": facts, "rows": rows, "notes": notes}
    path.with_name(f"{path.name}.json").write_text(json.dumps(data, indent=2) + "\n")
    path.with_name(f"{path.name}.md").write_text(text, "utf-8")


def _time(call: Call) -> float:
    times: list[float] = []
    while sum(times) < _SHORTEST_TIMING:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


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
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no line {name}")
