"""Times a trapped classifier against the bare one.

Example:
    python -m benchmarks.overhead --repeats=50 --output=docs/results/benchmark_overhead
    python -m benchmarks.overhead --model=MobileNetV2 --classes=1000 --batch_size=1
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


_OURS = "cifar10_resnet20"


def classifier(name: str, *, side: int, classes: int) -> keras.Model:
    """Builds a bare classifier, ours or one of Keras, with random weights."""
    keras.utils.set_random_seed(0)
    if name == _OURS:
        return cifar10_resnet20()
    return getattr(keras.applications, name)(
        weights=None,
        input_shape=(side, side, 3),
        classes=classes,
        classifier_activation=None,
    )


def measure(bare: keras.Model, batch_size: int, *, repeats: int) -> list[_measure.Row]:
    """Measures the inference of a classifier and of what is made of it."""
    images = tf.random.stateless_uniform((batch_size, *bare.input_shape[1:]), (0, 0))
    models = {"bare": bare, "trapped": inject(bare, _SETTINGS)}
    calls = {
        name: functools.partial(
            tf.function(functools.partial(model, training=False)), images
        )
        for name, model in models.items()
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
    flags.DEFINE_enum(
        "model",
        _OURS,
        [_OURS, "MobileNetV2", "ResNet50"],
        "Which classifier.",
        flag_values=values,
    )
    for name, default, help_text in (
        ("side", 224, "Height and width of the images of Keras' classifiers."),
        ("classes", 100, "Their classes."),
        ("batch_size", 256, "Images in a batch."),
    ):
        flags.DEFINE_integer(
            name, default, help_text, lower_bound=1, flag_values=values
        )
    _measure.define_flags(values, repeats=50)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    bare = classifier(values.model, side=values.side, classes=values.classes)
    _measure.run(
        "benchmarks.overhead",
        argv,
        values,
        lambda: measure(bare, values.batch_size, repeats=values.repeats),
        title=f"What a trap costs {bare.name}, images {bare.input_shape[1:]}, "
        f"{bare.output_shape[1]} classes, {values.batch_size} at a time",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
