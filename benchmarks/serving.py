"""Times the export of a trapped MNIST model, and what its signatures cost.

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

from benchmarks import _measure
from keras_traps import ForensicAnalyzer, TrapSettings, inject
from keras_traps.models import mnist_cnn
from keras_traps.serving import export

_COLUMNS = {
    "name": ("", "{}"),
    "seconds": ("s", "{:.1f}"),
    "image_ms": ("ms per image", "{:.4f}"),
    "ratio": ("of serving_default", "{:.3f}"),
    "quartiles": ("quartiles", "{0[0]:.3f} to {0[1]:.3f}"),
}

_NOTES = """\
The model has random weights. The export is one call of `keras_traps.serving.export`,
with warm-up records and with the self-test in its fresh process, on a machine that has
imported TensorFlow already. The signatures are those of the reloaded SavedModel, called
in turn in rounds whose order alternates; the ratio is the median of the rounds', its
quartiles theirs. What serving them costs is measured by `benchmarks.serving_load`."""

_SETTINGS = TrapSettings(
    output="logits", a0=-0.0001, a1=-4.0, a2=0.5, step_weights=(20.0, 1.0)
)


def measure(batch_size: int, *, repeats: int) -> list[_measure.Row]:
    """Measures an export, then its signatures: a row for each."""
    keras.utils.set_random_seed(0)
    trapped = inject(mnist_cnn(), _SETTINGS)
    clean = np.random.default_rng(0).random((200, 28, 28, 1), np.float32)
    analyzer = ForensicAnalyzer(trapped).fit(clean)
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
    compared = _measure.compare(times, "serving_default")
    return [
        {"name": "export with self-test", "seconds": seconds},
        *(
            {
                "name": name,
                "image_ms": _measure.milliseconds(own) / batch_size,
                **compared.get(name, {}),
            }
            for name, own in times.items()
        ),
    ]


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags in `values`, and returns them."""
    flags.DEFINE_integer(
        "batch_size", 32, "Images in a batch.", lower_bound=1, flag_values=values
    )
    _measure.define_flags(values, repeats=50)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    _measure.run(
        "benchmarks.serving",
        argv,
        values,
        lambda: measure(values.batch_size, repeats=values.repeats),
        title=f"Exporting a trapped MNIST CNN, and {values.batch_size} images a call",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
