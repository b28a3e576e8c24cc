"""Times a trapped ResNet-20 against the bare one.

Example:
    python -m benchmarks.overhead --repeats=50 --output=docs/results/benchmark_overhead
"""

import functools
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import app, flags

from benchmarks import _measure
from keras_traps import TrapSettings, inject
from keras_traps.models import cifar10_resnet20

_COLUMNS = {
    "name": ("", "{}"),
    "inference_ms": ("inference, ms", "{:.1f}"),
    "ratio": ("of the bare time", "{:.3f}"),
    "quartiles": ("quartiles", "{0[0]:.3f} to {0[1]:.3f}"),
}

_NOTES = """\
Both models are called in a `tf.function` each, with random weights, in pairs of runs
whose order alternates. The time is the median of the runs, the ratio the median of the
pairs', its quartiles those of the pairs'."""

_SETTINGS = TrapSettings(
    output="logits", a0=-0.005, a1=-8.0, a2=0.3, step_weights=(1 / 3, 1 / 128)
)


def models() -> dict[str, keras.Model]:
    """Builds the bare and the trapped classifier, with the same random weights."""
    keras.utils.set_random_seed(0)
    classifier = cifar10_resnet20()
    return {"bare": classifier, "trapped": inject(classifier, _SETTINGS)}


def measure(batch_size: int, *, repeats: int) -> list[_measure.Row]:
    """Measures the inference of both models."""
    images = tf.random.stateless_uniform((batch_size, 32, 32, 3), (0, 0))
    calls = {
        name: functools.partial(
            tf.function(functools.partial(model, training=False)), images
        )
        for name, model in models().items()
    }
    times = _measure.time_calls(calls, repeats)
    compared = _measure.compare(times, "bare")
    return [
        {
            "name": name,
            "inference_ms": _measure.milliseconds(own),
            **compared.get(name, {}),
        }
        for name, own in times.items()
    ]


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags."""
    flags.DEFINE_integer(
        "batch_size", 256, "Images in a batch.", lower_bound=1, flag_values=values
    )
    _measure.define_flags(values, repeats=50)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    _measure.run(
        "benchmarks.overhead",
        argv,
        values,
        lambda: measure(values.batch_size, repeats=values.repeats),
        title=f"What a trap costs a ResNet-20 on {values.batch_size} images at a time",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
