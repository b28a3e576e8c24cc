"""Times the export of a trapped MNIST model, what its signatures cost, and serving it.

Example:
    python -m benchmarks.serving --repeats=50 --output=docs/results/benchmark_serving
"""

import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import _measure, serving_load
from keras_traps import ForensicAnalyzer, TrapSettings, inject
from keras_traps._flags import Flags
from keras_traps.models import mnist_cnn
from keras_traps.serving import export
from tests.serving.server_process import ServerProcess

_COLUMNS = {
    "name": ("", "{}"),
    "seconds": ("s", "{:.1f}"),
    "image_ms": ("ms per image", "{:.4f}"),
    "ratio": ("of serving_default", "{:.3f}"),
    "quartiles": ("quartiles", "{0[0]:.3f} to {0[1]:.3f}"),
    "per_second": ("requests/s", "{:.0f}"),
    "p50_ms": ("p50, ms", "{:.1f}"),
    "p99_ms": ("p99, ms", "{:.1f}"),
}

_NOTES = """\
The model has random weights. The export is one call of `keras_traps.serving.export`,
with warm-up records and with the self-test in its fresh process, on a machine that has
imported TensorFlow already. The signatures are those of the reloaded SavedModel, called
in turn in rounds whose order alternates; the ratio is the median of the rounds', its
quartiles theirs. The requests are gRPC calls of that many images each by 4 clients of
the reference server of the tests, a test double in Python on the same machine;
`benchmarks.serving_load` measures more of it."""

_CLIENTS = 4

_SETTINGS = TrapSettings(
    output="logits", a0=-0.0001, a1=-4.0, a2=0.5, step_weights=(20.0, 1.0)
)


def measure(batch_size: int, *, repeats: int, requests: int) -> list[_measure.Row]:
    """Measures an export, then its signatures, called and served.

    Args:
        batch_size: Images in a batch.
        repeats: How many rounds.
        requests: How many requests are made of each signature.

    Returns:
        A row for the export and one for each signature, with the keys of the table.
    """
    trapped, analyzer = _defended()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        exported = export(
            trapped, Path(folder, "mnist"), analyzer=analyzer, verbose=False
        )
        seconds = time.perf_counter() - start
        loaded = tf.saved_model.load(str(exported.path))
        images = tf.random.stateless_uniform((batch_size, 28, 28, 1), (0, 0))
        calls: dict[str, _measure.Call] = {
            name: functools.partial(loaded.signatures[name], image=images)
            for name in exported.signatures
        }
        times = _measure.time_calls(calls, repeats)
        with ServerProcess(Path(folder, "mnist"), "mnist") as server:
            served = {
                name: serving_load.measure(
                    server.grpc_address,
                    "mnist",
                    signature=name,
                    batch=batch_size,
                    clients=_CLIENTS,
                    requests=requests,
                )
                for name in calls
            }
    rows: list[_measure.Row] = [{"name": "export with self-test", "seconds": seconds}]
    compared = _measure.compare(times, "serving_default")
    for name, own in times.items():
        image_ms = _measure.milliseconds(own) / batch_size
        rows.append(
            {
                **served[name],
                "name": name,
                "image_ms": image_ms,
                **compared.get(name, {}),
            }
        )
    return rows


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = Flags(values)
    define.integer("batch_size", 32, "Images in a batch.")
    define.integer("requests", 1000, "How many requests are made of each signature.")
    _measure.define_flags(values, repeats=50)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`.

    Args:
        argv: What is left of the command line.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.
    """
    _measure.run(
        "benchmarks.serving",
        argv,
        values,
        lambda: measure(
            values.batch_size, repeats=values.repeats, requests=values.requests
        ),
        title=f"Exporting a trapped MNIST CNN, and {values.batch_size} images a call",
        columns=_COLUMNS,
        notes=_NOTES,
    )


def _defended() -> tuple[keras.Model, ForensicAnalyzer]:
    keras.utils.set_random_seed(0)
    trapped = inject(mnist_cnn(), _SETTINGS)
    clean = np.random.default_rng(0).random((200, 28, 28, 1), np.float32)
    return trapped, ForensicAnalyzer(trapped).fit(clean)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
