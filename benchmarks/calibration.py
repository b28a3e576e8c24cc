"""Times the calibration of traps for many classes and large images.

Example:
    python -m benchmarks.calibration --images=1000 --classes=1000
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

from benchmarks import _measure
from benchmarks.overhead import classifier
from keras_traps import Key, calibrate, inject
from keras_traps._checks import FloatArray
from keras_traps.attractors import decoder_of
from keras_traps.models.inference import predict

_COLUMNS = {
    "images": ("images", "{}"),
    "predict_s": ("the classifier's answers alone, s", "{:.1f}"),
    "calibrate_s": ("calibration, s", "{:.1f}"),
    "decoder_mb": ("decoder in a file, MB", "{:.2f}"),
}

_NOTES = """\
The weights are random, the last layer's so that answers differ; the images are random
blocks. Calibration answers each image once and decodes its watermarks. The decoder's
size is that of a .keras file which holds it alone."""


def measure(name: str, *, side: int, classes: int, images: int) -> list[_measure.Row]:
    """Measures one calibration."""
    model = classifier(name, side=side, classes=classes)
    shown = _images(images, model.input_shape[1:])
    _spread(model, shown[:64])
    start = time.perf_counter()
    answers = predict(model, shown).argmax(axis=1)
    answered = time.perf_counter()
    calibration = calibrate(
        model, shown, answers, output="logits", key=Key.from_seed(0), budget=0.05
    )
    done = time.perf_counter()
    decoder = decoder_of(inject(model, calibration))
    alone = keras.Sequential([keras.Input(model.input_shape[1:]), decoder])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decoder.keras"
        alone.save(path)
        size = path.stat().st_size
    return [
        {
            "images": images,
            "predict_s": answered - start,
            "calibrate_s": done - answered,
            "decoder_mb": size / 2**20,
        }
    ]


def _images(count: int, shape: tuple[int, ...]) -> FloatArray:
    draw = np.random.default_rng(0)
    fewer = count, -(-shape[0] // 8), -(-shape[1] // 8), shape[2]
    few = draw.random(fewer, np.float32)
    noisy = few.repeat(8, axis=1).repeat(8, axis=2)[:, : shape[0], : shape[1]]
    noisy += 0.02 * draw.standard_normal(noisy.shape, np.float32)
    return np.clip(noisy, 0, 1)


def _spread(model: keras.Model, images: FloatArray) -> None:
    """Sets the last layer so that a model of random weights answers variously."""
    last = model.layers[-1]
    features = predict(keras.Model(model.inputs, last.input), images)
    drawn = np.random.default_rng(1).normal(size=last.kernel.shape)
    kernel = drawn / features.std(axis=0).mean()
    last.set_weights([kernel, -(features @ kernel).mean(axis=0)])


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags."""
    flags.DEFINE_string("model", "MobileNetV2", "Which classifier.", flag_values=values)
    for name, default, told in (
        ("side", 224, "Height and width of the images."),
        ("classes", 1000, "How many classes."),
        ("images", 1000, "How many images."),
    ):
        flags.DEFINE_integer(name, default, told, lower_bound=1, flag_values=values)
    _measure.define_flags(values, repeats=1)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    shape = {"side": values.side, "classes": values.classes}
    _measure.run(
        "benchmarks.calibration",
        argv,
        values,
        lambda: measure(values.model, **shape, images=values.images),
        title=f"Calibration of {values.model}, {values.classes} classes, "
        f"{values.side}x{values.side}x3",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
