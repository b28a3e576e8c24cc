"""Times the training of luring's P against loops that ask M at every step.

Example:
    python -m benchmarks.luring --steps=100 --repeats=5 --output=benchmark_luring
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import _measure
from keras_traps._checks import FloatArray
from keras_traps.layers import LuringInput
from keras_traps.luring import LuredClassifier, answered_dataset, frozen_answers
from keras_traps.luring.losses import luring_loss
from keras_traps.models import madry_mnist_cnn

Step = Callable[[tf.Tensor], tf.Tensor]

FIT, COMPILED, EAGER = "LuredClassifier.fit", "compiled loop", "eager loop"
ANSWERS = "M's answers, once"

_LEARNING_RATE = 1e-3

_COLUMNS = {
    "name": ("", "{}"),
    "images_per_second": ("images per second", "{:.0f}"),
    "step_ms": ("a step, ms", "{:.1f}"),
    "ratio": ("times as long as fit", "{:.2f}"),
    "quartiles": ("quartiles", "{0[0]:.2f} to {0[1]:.2f}"),
}

_NOTES = """\
`fit` is given M's answer and runner-up of each image by `answered_dataset`. The loops
are a `GradientTape`, the same P, M, optimizer, loss and batches, and ask M at every
step; the compiled one is one `tf.function`. Medians over rounds in which all are timed
in alternating order, by the processor time of all threads. The answers are computed
once before a training, for as many images as one round has, and are in no other row. M
has random weights, images are noise: neither changes how long a step takes."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is trained; `width` multiplies the filters and units of M."""

    batch_size: int = 64
    steps: int = 20
    width: float = 1.0

    @property
    def images(self) -> FloatArray:
        """Noise, `(steps * batch_size, 28, 28, 1)`, the same at every call."""
        shape = (self.steps * self.batch_size, 28, 28, 1)
        return np.random.default_rng(0).random(shape, np.float32)


def models(width: float) -> tuple[keras.Model, LuringInput]:
    """Makes M, frozen, and P, built; the same weights at every call."""
    keras.utils.set_random_seed(0)
    target = madry_mnist_cnn(width)
    target.trainable = False
    lure = LuringInput("mnist")
    lure.build((None, 28, 28, 1))
    return target, lure


def lured(size: Size) -> tuple[LuredClassifier, tf.data.Dataset]:
    """Makes a compiled lured classifier and what its `fit` is given."""
    target, lure = models(size.width)
    model = LuredClassifier(target, lure, output="logits")
    model.compile(keras.optimizers.Adam(_LEARNING_RATE))
    return model, answered_dataset(
        target, size.images, output="logits", batch_size=size.batch_size
    )


def plain_step(width: float, *, compiled: bool) -> Step:
    """Makes a step as one writes it without this package; it returns its loss."""
    target, lure = models(width)
    optimizer = keras.optimizers.Adam(_LEARNING_RATE)

    def step(images: tf.Tensor) -> tf.Tensor:
        ranked = tf.math.top_k(target(images, training=False), k=2).indices
        with tf.GradientTape() as tape:
            logits = target(lure(images, training=True), training=False)
            losses = luring_loss(logits, ranked[:, 0], ranked[:, 1])
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, lure.trainable_variables)
        optimizer.apply(gradients, lure.trainable_variables)
        return loss

    # An optimizer makes its variables at its first step, or before.
    optimizer.build(lure.trainable_variables)
    return tf.function(step) if compiled else step


def plain_loop(step: Step, data: tf.data.Dataset) -> list[tf.Tensor]:
    """Trains on all batches, and returns the loss of each."""
    return [step(images) for images in data]


def measure(size: Size, *, repeats: int) -> list[_measure.Row]:
    """Measures the training by `fit` and by the loops: a row for each."""
    images = size.images
    model, answered = lured(size)
    plain = tf.data.Dataset.from_tensor_slices(images).batch(size.batch_size)
    calls: dict[str, _measure.Call] = {
        FIT: functools.partial(model.fit, answered, shuffle=False, verbose=0)
    }
    for name in (COMPILED, EAGER):
        step = plain_step(size.width, compiled=name == COMPILED)
        calls[name] = functools.partial(plain_loop, step, plain.prefetch(2))
    calls[ANSWERS] = lambda: frozen_answers(model.target, images, output="logits")
    # What others do on the same machine is not in it, nor what `fit` waits for.
    times = _measure.time_calls(calls, repeats, clock=time.process_time)
    compared = _measure.compare(times, FIT)
    rows: list[_measure.Row] = []
    for name, own in times.items():
        speed = len(images) / float(np.median(own))
        row = {"name": name, "images_per_second": speed, **compared.get(name, {})}
        if name != ANSWERS:
            row["step_ms"] = _measure.milliseconds(own) / size.steps
        rows.append(row)
    return rows


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags, in `absl.flags.FLAGS` or others in a test."""
    integer, number = flags.DEFINE_integer, flags.DEFINE_float
    integer("batch_size", 64, "Images in a batch.", 1, flag_values=values)
    integer("steps", 20, "Steps in one round.", 1, flag_values=values)
    number("width", 1.0, "Multiplies the filters and units of M.", flag_values=values)
    _measure.define_flags(values, repeats=10)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    size = Size(values.batch_size, values.steps, values.width)
    _measure.run(
        "benchmarks.luring",
        argv,
        values,
        lambda: measure(size, repeats=values.repeats),
        title=f"Training luring's P before an MNIST classifier of width {size.width:g}",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
