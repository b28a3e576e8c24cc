"""Times how fast images are traced, and counts how often keys of nobody are named.

Example:
    python -m benchmarks.tracing --dataset=mnist --data_dir=data \
        --calibration=calibration.json
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks import _measure
from keras_traps import Key
from keras_traps._pixels import from_unit
from keras_traps.attractors import Registry, TrapSettings, trace
from keras_traps.attractors.copies import Copy
from keras_traps.commands.trapping import read_calibration
from keras_traps.datasets import Dataset, load

_SHARES = (0.1, 0.01, 0.001)
_COLUMNS = {
    "keys": ("keys", "{:,}"),
    "images": ("images", "{:,}"),
    "seconds": ("seconds", "{:.1f}"),
    **{f"at_{share:g}": (f"p ≤ {share:g}", "{:.3%}") for share in _SHARES},
    "most": ("p ≤ 0.01, of the image with most", "{:.2%}"),
}
_NOTES = """\
Half of the keys are of copies that no image was made on, and half of nobody. The images
are clean test images, and the shares those of all pairs of a copy and an image. One set
of innocent keys ranks all copies for an image, so that one image may have more than its
share, and another fewer."""


def measure(
    settings: TrapSettings, test: Dataset, *, keys: int, repeats: int
) -> list[_measure.Row]:
    """Traces clean test images to copies that they were not made on."""
    master = Key.from_seed(0)
    names = [str(number) for number in range(keys // 2)]
    registry = Registry(
        classifier="",
        shape=test.images.shape[1:],
        num_classes=test.num_classes,
        settings=settings.to_dict(),
        master=master.fingerprint,
        copies=tuple(Copy(name, 1, "") for name in names),
    )
    images = from_unit(test.images, settings.bounds)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = trace(images, registry, master, innocent=keys - len(names))
        p_values = found.p_values
        seconds.append(time.perf_counter() - start)
    return [
        {
            "keys": keys,
            "images": len(images),
            "seconds": float(np.median(seconds)),
            **{f"at_{share:g}": float((p_values <= share).mean()) for share in _SHARES},
            "most": float((p_values <= 0.01).mean(axis=0).max()),
        }
    ]


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags."""
    for name, default, told in (
        ("dataset", "digits", "The data set; see `keras_traps.datasets.load`."),
        ("data_dir", None, "The folder that holds it."),
        ("calibration", None, "The calibration.json of a classifier."),
    ):
        flags.DEFINE_string(name, default, told, flag_values=values)
    told = "How many images are traced, at most."
    flags.DEFINE_integer("images", 1000, told, lower_bound=2, flag_values=values)
    told = "How many keys they are scored with."
    flags.DEFINE_integer("keys", 10_000, told, lower_bound=2, flag_values=values)
    flags.mark_flag_as_required("calibration", flag_values=values)
    _measure.define_flags(values, repeats=1)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    test = load(values.dataset, "test", values.data_dir)
    test = test.take(min(values.images, len(test)), seed=0)
    settings = read_calibration(Path(values.calibration), Key.from_seed(0)).settings
    _measure.run(
        "benchmarks.tracing",
        argv,
        values,
        lambda: measure(settings, test, keys=values.keys, repeats=values.repeats),
        title=f"Tracing on {values.dataset}",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
