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

from keras_traps._environment import environment
from keras_traps._flags import Flags, check_flags_only

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

    Args:
        calls: By name, what to time. Each is made once before, untimed.
        repeats: How many rounds. Every second one goes backwards.
        clock: Says how late it is, in seconds. Defaults to `time.perf_counter`.

    Returns:
        By name, one time per round in seconds. For a call shorter than 0.1 s it is
        the median of as many as fit into that.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name in list(calls)[:: -1 if repeat % 2 else 1]:
            times[name].append(_time(calls[name], clock))
    return times


def milliseconds(times: Sequence[float]) -> float:
    """Returns the median of times in seconds as milliseconds."""
    return 1e3 * float(np.median(times))


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median over the rounds of one time divided by another."""
    return float(np.median(np.divide(numerators, denominators)))


def compare(times: Mapping[str, Sequence[float]], base: str) -> dict[str, Row]:
    """Compares times with those of one call, round by round.

    Args:
        times: What `time_calls` returned.
        base: The name of the call that the others are divided by.

    Returns:
        For every call but the base, a `ratio`, the median of the rounds', and their
        `quartiles`.
    """
    rows = {}
    for name in times.keys() - {base}:
        ratios = np.divide(times[name], times[base])
        rows[name] = {
            "ratio": float(np.median(ratios)),
            "quartiles": np.quantile(ratios, (0.25, 0.75)).tolist(),
        }
    return rows


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
    # On CPUs for which TensorFlow turns oneDNN on, its allocator keeps what was freed:
    # a second run would need nothing new.
    with (
        environment("TF_ENABLE_ONEDNN_OPTS", "0"),
        ProcessPoolExecutor(1, mp_context=spawn) as process,
    ):
        return process.submit(_extra_memory_here, prepare).result()


def define_flags(values: flags.FlagValues, repeats: int) -> None:
    """Defines the flags that all benchmarks have.

    Args:
        values: Where to define them.
        repeats: The default number of rounds.
    """
    define = Flags(values)
    define.integer("repeats", repeats, "How many rounds are timed.")
    define.text(
        "output",
        None,
        "Where to write the results to, as <output>.json and <output>.md. Files that "
        "are there are replaced.",
    )


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

    Args:
        module: The benchmark's name, e.g. `"benchmarks.qim"`.
        argv: What is left of the command line; anything but the script is an error.
        values: The benchmark's parsed flags.
        measure: Returns the numbers.
        title: A line for the top.
        columns: Which numbers to show.
        notes: How to read them.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is measured.
    """
    check_flags_only(argv)
    facts = provenance(module, values)
    publish(
        values.output,
        title=title,
        facts=facts,
        rows=measure(),
        columns=columns,
        notes=notes,
    )


def provenance(module: str, values: flags.FlagValues) -> Row:
    """Returns what a reader needs to run a benchmark again.

    Args:
        module: The benchmark's name, e.g. `"benchmarks.qim"`.
        values: Its parsed flags. `--output` is left out, it changes no number; so are
            the folders of absolute paths, which say nothing on another machine.
    """
    given = [values[name] for name in values if name != "output"]
    words = (_without_folders(flag.serialize()) for flag in given if flag.present)
    command = ["python -m", module, *words]
    return {
        "command": " ".join(command),
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


def _without_folders(flag: str) -> str:
    name, equals, value = flag.partition("=")
    return f"{name}{equals}{Path(value).name if Path(value).is_absolute() else value}"


def _time(call: Call, clock: Clock) -> float:
    times: list[float] = []
    while sum(times) < _SHORTEST_TIMING:
        start = clock()
        call()
        times.append(clock() - start)
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
