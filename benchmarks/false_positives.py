"""Counts how many clean images the analyzer flags, by what its thresholds were set on.

Example:
    python -m benchmarks.false_positives --dataset=cifar10 --data_dir=data \
        --model=deepsec_cifar10.npz --calibration=calibration.json
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

from benchmarks import _measure
from keras_traps import ForensicAnalyzer, Key, TrapSettings, inject
from keras_traps._checks import FloatArray
from keras_traps.commands.trapping import load_classifier, read_calibration
from keras_traps.datasets import Dataset, load
from keras_traps.models.forms import for_model

_FPRS = (0.05, 0.005)
_COLUMNS = {
    "name": ("thresholds set on", "{}"),
    "counted": ("counted on", "{}"),
    **{f"fpr_{fpr:g}": (f"flagged at {fpr:.1%}", "{:.2%}") for fpr in _FPRS},
}

_NOTES = """\
Means over `--repeats` random choices of the images that set the thresholds, with the
key of seed 0. A classifier is surer of images that it was trained on, and the fourth
condition looks at that: thresholds from such images flag too many others."""


def measure(
    classifier: keras.Model,
    settings: TrapSettings,
    train: Dataset,
    test: Dataset,
    *,
    repeats: int,
) -> list[_measure.Row]:
    """Counts on other training images, and on test images."""
    analyzer = ForensicAnalyzer(inject(classifier, settings))
    evidence = {
        name: analyzer.evidence(for_model(classifier, data.images, settings.bounds))
        for name, data in (("training", train), ("test", test))
    }
    rows = []
    for source, others in (
        ("training", "training"),
        ("training", "test"),
        ("test", "test"),
    ):
        half = len(evidence[source]) // 2
        counts = {
            f"fpr_{fpr:g}": _flagged(analyzer, evidence, source, others, fpr, repeats)
            for fpr in _FPRS
        }
        counted = evidence[others]
        number = len(counted) - half if source == others else len(counted)
        named = f"{half} {source} images", f"{number} other {others} images"
        rows.append({"name": named[0], "counted": named[1], **counts})
    return rows


def _flagged(
    analyzer: ForensicAnalyzer,
    evidence: dict[str, FloatArray],
    source: str,
    others: str,
    fpr: float,
    repeats: int,
) -> float:
    """Returns the share that is flagged, over random choices of half the images."""
    shares = []
    for seed in range(repeats):
        order = np.random.default_rng(seed).permutation(len(evidence[source]))
        held, rest = np.array_split(order, [len(order) // 2])
        analyzer.fit_evidence(evidence[source][held], fpr=fpr)
        counted = evidence[others][rest] if source == others else evidence[others]
        shares.append(float(analyzer.judge(counted).is_adversarial.mean()))
    return float(np.mean(shares))


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags."""
    for name, default, told in (
        ("dataset", "digits", "The data set; see `keras_traps.datasets.load`."),
        ("data_dir", None, "The folder that holds it."),
        ("model", None, "The classifier: a .keras file or a DEEPSEC .npz state dict."),
        ("calibration", None, "The calibration.json of the classifier."),
    ):
        flags.DEFINE_string(name, default, told, flag_values=values)
    told = "How many training images are looked at, at most."
    flags.DEFINE_integer("images", 10_000, told, lower_bound=2, flag_values=values)
    flags.mark_flags_as_required(["model", "calibration"], flag_values=values)
    _measure.define_flags(values, repeats=20)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    train, test = (
        load(values.dataset, split, values.data_dir) for split in ("train", "test")
    )
    train = train.take(min(values.images, len(train)), seed=0)
    classifier = load_classifier(Path(values.model), values.dataset)
    settings = read_calibration(Path(values.calibration), Key.from_seed(0)).settings
    _measure.run(
        "benchmarks.false_positives",
        argv,
        values,
        lambda: measure(classifier, settings, train, test, repeats=values.repeats),
        title=f"False positives on {values.dataset}",
        columns=_COLUMNS,
        notes=_NOTES,
    )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
