"""Traps a classifier, or takes a lured one, and exports it for TensorFlow Serving.

Example:
    python recipes/export.py --dataset=mnist --data_dir=data \
        --model=runs/mnist.keras --directory=saved_models/mnist_attractors
"""

import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import keras
import numpy as np
from absl import app, flags, logging

from keras_traps import ForensicAnalyzer, calibrate, datasets, inject
from keras_traps._checks import FloatArray
from keras_traps._flags import Flags, check_flags_only
from keras_traps.attractors import Calibration
from keras_traps.devices import prepare_devices
from keras_traps.models.inference import predict
from keras_traps.models.outputs import Output
from keras_traps.serving import (
    Deploy,
    PortableError,
    Signature,
    export,
    export_portable,
)
from keras_traps.serving.card import card
from keras_traps.serving.formats import FORMATS, Format
from keras_traps.serving.subject import is_trapped

_EXAMPLES = 16


class _Subject(NamedTuple):
    """What is exported, and what was measured of it on the test images."""

    model: keras.Model
    parts: dict[str, Any]
    metrics: dict[str, float]
    note: str = ""

    @property
    def answering(self) -> keras.Model:
        """The one network from images to what `serving_default` answers from."""
        if self.parts.get("deploy") != "augmented":
            return self.model
        images = keras.Input(self.model.input_shape[1:], name="image")
        return keras.Model(images, self.model(self.parts["lure"](images)))


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = Flags(values)
    define.text("dataset", "digits", "Its training images set the thresholds.")
    define.text("data_dir", None, "The folder that holds the data set; see the README.")
    define.text("model", None, "A .keras file: a classifier, or a trapped model.")
    define.choice(
        "output",
        "logits",
        Output,
        "What the classifier returns; a --calibration and a trapped --model have their "
        "own.",
    )
    define.text("calibration", None, "A calibration.json to use instead of a new one.")
    define.text("analyzer", None, "A saved analyzer of a trapped --model to use.")
    define.number("fpr", 0.05, "The false-positive rate of a new analyzer.")
    define.integer("num_images", 10_000, "From how many training images at most.")
    define.integer(
        "seed",
        None,
        "The seed of the messages: the defence's secret. The default is that of "
        "--calibration, or one drawn by chance, which nobody is told. A trapped "
        "--model has its own.",
        low=0,
    )
    define.text("lure", None, "A .keras file of the network P of a lured model.")
    define.choice("deploy", None, Deploy, "What a lured model answers; with --lure.")
    define.text("directory", None, "The model's folder; its last part is its name.")
    define.integer("version", None, "The version. The default is the highest plus 1.")
    define.texts(
        "signatures",
        None,
        f"What a client may call, of {', '.join(get_args(Signature))}. The default "
        "depends on the model.",
    )
    define.text("made_by", None, "A command that this one is a part of, for the card.")
    define.texts("warmup_batch_sizes", ["1", "32"], "Batch sizes to warm up.")
    define.choices(
        "format",
        [],
        Format,
        "What to write beside --directory too; give it once for each.",
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Traps, measures, exports, and tells how to serve.

    Args:
        argv: The command line as it was given; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is exported.
    """
    check_flags_only(argv)
    if values.model is None or values.directory is None:
        raise app.UsageError("--model and --directory are required.")
    if (values.lure is None) != (values.deploy is None):
        raise app.UsageError("--lure and --deploy go together.")
    if values.format and values.deploy == "agreed":
        raise app.UsageError("--format writes one network: --deploy=agreed needs two.")
    if not all(size.isdecimal() for size in values.warmup_batch_sizes):
        raise app.UsageError("--warmup_batch_sizes takes positive integers.")
    # TensorFlow tells of every step of writing a model.
    logging.set_verbosity(logging.WARNING)
    prepare_devices()
    model = _load(values.model, "model")
    _check_idle(values, trapped=is_trapped(model))
    train, test = (
        datasets.load(values.dataset, split, values.data_dir)
        for split in ("train", "test")
    )
    make = _trapped if values.lure is None else _lured
    subject = make(model, train, test, values)
    exported = export(
        subject.model,
        values.directory,
        version=values.version,
        signatures=values.signatures,
        class_names=test.class_names,
        warmup_batch_sizes=tuple(int(size) for size in values.warmup_batch_sizes),
        metrics=subject.metrics,
        data_sha256=test.sha256,
        examples=test.images[:_EXAMPLES],
        **subject.parts,
    )
    text = card(
        exported,
        test,
        subject.metrics,
        argv=[word for word in sys.argv if not word.startswith("--made_by=")],
        made_by=values.made_by,
        note=subject.note,
    )
    (exported.path / "README.md").write_text(text, encoding="utf-8")
    for name in values.format:
        _write_portable(subject.answering, name, test, exported.path.parent)


def _check_idle(values: flags.FlagValues, *, trapped: bool) -> None:
    """Refuses flags that are given and would change nothing."""
    idle: dict[str, Sequence[str]] = {}
    if values.lure is not None:
        idle["--lure"] = ("seed", "calibration", "analyzer", "fpr", "num_images")
    else:
        has_constants = trapped or values.calibration is not None
        if trapped:
            idle["a trapped --model"] = ("seed", "calibration", "output")
        elif has_constants:
            idle["--calibration"] = ("output",)
        if values.analyzer is not None:
            # Then there is nothing left to set on training images.
            unread = ("num_images",) if has_constants else ()
            idle["--analyzer"] = ("fpr", *unread)
    for reason, names in idle.items():
        if given := [f"--{name}" for name in names if values[name].present]:
            raise app.UsageError(
                f"With {reason} there is no use for {', '.join(given)}. Leave out what "
                "would change nothing."
            )


def _load(path: str, flag: str) -> keras.Model:
    place = Path(path).expanduser()
    if place.suffix != ".keras" or not place.is_file():
        raise app.UsageError(f"--{flag} names no .keras file: {path}")
    return keras.saving.load_model(place)


def _trapped(
    model: keras.Model,
    train: datasets.Dataset,
    test: datasets.Dataset,
    values: flags.FlagValues,
) -> _Subject:
    clean = train.take(min(values.num_images, len(train)), seed=0).images
    metrics = {}
    if is_trapped(model):
        trapped = model
    else:
        trapped = inject(model, _calibration(model, clean, values).settings)
        metrics["accuracy_classifier"] = _accuracy(model, test)
    if values.analyzer is None:
        analyzer = ForensicAnalyzer(trapped).fit(clean, fpr=values.fpr)
    else:
        analyzer = ForensicAnalyzer.load(values.analyzer, trapped)
    flagged = analyzer.detect(test.images).is_adversarial
    metrics["accuracy"] = _accuracy(trapped, test)
    metrics["false_positive_rate"] = float(flagged.mean())
    note = (
        f"What was not given by a file was set on {len(clean)} training images. The "
        f"analyzer's nominal false-positive rate is {analyzer.thresholds.fpr:.1%}."
    )
    return _Subject(trapped, {"analyzer": analyzer}, metrics, note)


def _calibration(
    classifier: keras.Model, clean: FloatArray, values: flags.FlagValues
) -> Calibration:
    if values.calibration is None:
        seed = secrets.randbits(63) if values.seed is None else values.seed
        return calibrate(classifier, clean, output=values.output, seed=seed)
    path = Path(values.calibration).expanduser()
    content = json.loads(path.read_text(encoding="utf-8"))
    calibration = Calibration.from_dict(content)
    # Its own seed is kept where no other is asked for.
    return calibration if values.seed is None else calibration.reseeded(values.seed)


def _lured(
    model: keras.Model,
    train: datasets.Dataset,
    test: datasets.Dataset,
    values: flags.FlagValues,
) -> _Subject:
    del train
    lure = _load(values.lure, "lure")
    target = predict(model, test.images).argmax(axis=1)
    augmented = predict(model, predict(lure, test.images)).argmax(axis=1)
    metrics = {
        "accuracy_target": float((target == test.labels).mean()),
        "accuracy_augmented": float((augmented == test.labels).mean()),
        "agreement": float((target == augmented).mean()),
    }
    parts = {"lure": lure, "deploy": values.deploy, "output": values.output}
    return _Subject(model, parts, metrics)


def _accuracy(model: keras.Model, test: datasets.Dataset) -> float:
    answers = predict(model, test.images).argmax(axis=1)
    return float(np.mean(answers == test.labels))


def _write_portable(
    model: keras.Model, name: Format, test: datasets.Dataset, directory: Path
) -> None:
    path = directory.with_name(f"{directory.name}{FORMATS[name].suffix}")
    try:
        difference = export_portable(model, path, examples=test.images[:_EXAMPLES])
    except (ImportError, PortableError) as error:
        print(f"No {name} file: {error}", file=sys.stderr)
    else:
        print(f"Wrote {path}: within {difference:.1g} of the live model.")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
