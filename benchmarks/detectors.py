"""Times saved detectors beside their classifiers, and non-local means beside OpenCV's.

Example:
    python -m benchmarks.detectors --detector=runs/magnet --detector=runs/lid \
        --output=docs/results/benchmark_detectors
"""

import functools
import importlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import _measure
from keras_traps._checks import FloatArray
from keras_traps.detectors import NonLocalMeans, load

# Of benchmarks/requirements.txt, and not of the package's.
_OPENCV = "cv2"

_COLUMNS = {
    "name": ("", "{}"),
    "fit_s": ("fitted in, s", "{:.0f}"),
    "image_ms": ("ms per image", "{:.3f}"),
    "ratio": ("of the base's time", "{:.2f}"),
    "quartiles": ("quartiles", "{0[0]:.2f} to {0[1]:.2f}"),
    "memory_mb": ("memory, MB", "{:.0f}"),
}

_NOTES = """\
The base is the detector's own classifier, called in a `tf.function` on the same batch;
a detector's time is that of its score, classifier included, from a NumPy array. Of
non-local means (13x13 pixels from patches of 3x3, h = 2, random images of 32x32x3) the
base is OpenCV's `fastNlMeansDenoisingColored`, called image by image. Rounds go through
all in turn; the ratio is the median of the rounds. The seconds of fitting are those of
`detectors.py fit`, measured once on a machine that other work may have shared. Memory
is what a second call needs beyond what is held, in a process of its own."""

_SEARCH, _PATCH, _STRENGTH = 13, 3, 2


def measure_detector(
    folder: Path, batch_size: int, *, repeats: int
) -> list[_measure.Row]:
    """Measures a saved detector and its bare classifier."""
    calls = _calls(folder, batch_size)
    times = _measure.time_calls(calls, repeats)
    compared = _measure.compare(times, "bare")
    memory = _measure.extra_memory(functools.partial(_prepare, folder, batch_size))
    about = json.loads((folder / "about.json").read_text("utf-8"))
    names = {"bare": f"classifier of {folder.name}", "score": folder.name}
    return [
        {
            "name": names[name],
            "image_ms": _measure.milliseconds(own) / batch_size,
            "memory_mb": extra / 2**20,
            **({"fit_s": about["seconds"]} if name == "score" else {}),
            **compared.get(name, {}),
        }
        for (name, own), extra in zip(times.items(), memory, strict=True)
    ]


def measure_means(batch_size: int, *, repeats: int) -> list[_measure.Row]:
    """Measures non-local means, beside OpenCV's where it is installed."""
    images = _images((batch_size, 32, 32, 3))
    ours = NonLocalMeans(_SEARCH, _PATCH, float(_STRENGTH))
    call = tf.function(ours, autograph=False)
    calls = {"non-local means": functools.partial(call, tf.constant(images))}
    if found := importlib.util.find_spec(_OPENCV):
        calls["OpenCV's"] = functools.partial(opencv_means, images)
    times = _measure.time_calls(calls, repeats)
    compared = _measure.compare(times, "OpenCV's") if found else {}
    return [
        {
            "name": name,
            "image_ms": _measure.milliseconds(own) / batch_size,
            **compared.get(name, {}),
        }
        for name, own in times.items()
    ]


def opencv_means(images: FloatArray) -> FloatArray:
    """Squeezes images `(batch, height, width, 3)` in [0, 1] as the authors do."""
    cv2 = importlib.import_module(_OPENCV)
    levels = np.rint(images * 255).astype(np.uint8)
    made = [
        cv2.fastNlMeansDenoisingColored(
            one, None, _STRENGTH, _STRENGTH, _PATCH, _SEARCH
        )
        for one in levels
    ]
    return np.stack(made).astype(np.float32) / np.float32(255)


def _images(shape: tuple[int, ...]) -> FloatArray:
    return np.random.default_rng(0).random(shape, np.float32)


def _calls(folder: Path, batch_size: int) -> dict[str, _measure.Call]:
    detector = load(folder)
    low, high = detector.bounds
    images = _images((batch_size, *detector.classifier.input_shape[1:]))
    images = images * np.float32(high - low) + np.float32(low)
    bare = tf.function(functools.partial(detector.classifier, training=False))
    return {
        "bare": functools.partial(bare, tf.constant(images)),
        "score": functools.partial(detector.score, images),
    }


def _prepare(folder: Path, batch_size: int) -> list[_measure.Call]:
    return list(_calls(folder, batch_size).values())


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags."""
    flags.DEFINE_multi_string(
        "detector",
        [],
        "A folder that `recipes/detectors.py fit` wrote; given once for each.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size", 256, "Images in a batch.", lower_bound=1, flag_values=values
    )
    _measure.define_flags(values, repeats=10)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""

    def measure() -> list[_measure.Row]:
        size, repeats = values.batch_size, values.repeats
        rows = measure_means(size, repeats=repeats)
        for folder in values.detector:
            rows += measure_detector(Path(folder), size, repeats=repeats)
        return rows

    _measure.run(
        "benchmarks.detectors",
        argv,
        values,
        measure,
        title=f"What detectors cost, {values.batch_size} images at a time",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
