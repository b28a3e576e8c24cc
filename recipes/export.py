r"""Traps a classifier, or takes a lured one, and exports it for TensorFlow Serving.

Example:
    python recipes/export.py --dataset=mnist --data_dir=data \
        --model=runs/mnist.keras --directory=saved_models/mnist_attractors
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import command_line
from command_line import CommandLineError, refusing

if TYPE_CHECKING:
    import keras

    from keras_traps.datasets import Dataset

SIGNATURES = (
    *("serving_default", "analyze", "integrated", "predict_agreed"),
    *("serving_uint8", "image_bytes"),
)
DEPLOYS = ("augmented", "target", "agreed")
FORMATS = ("onnx", "openvino", "tflite")

_EXAMPLES = 16


class _Subject(NamedTuple):
    """What is exported, and what was measured of it on the test images."""

    model: keras.Model
    parts: dict[str, Any]
    metrics: dict[str, float]
    note: str = ""


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="export.py")
    command_line.add_data(parser)
    parser.flag(
        "model",
        "A .keras file: a classifier, or a trapped model.",
        command_line.file,
        required=True,
    )
    parser.flag(
        "output",
        "What the classifier returns; a --calibration and a trapped --model have their "
        "own.",
        default="logits",
        options=command_line.OUTPUTS,
    )
    parser.flag(
        "calibration",
        "A calibration.json to use instead of a new one.",
        command_line.file,
    )
    parser.flag(
        "analyzer",
        "A saved analyzer of a trapped --model to use.",
        command_line.file,
    )
    parser.flag(
        "fpr",
        "The false-positive rate of a new analyzer.",
        command_line.share,
        default=0.05,
    )
    parser.flag(
        "num_images",
        "From how many training images at most.",
        command_line.count,
        default=10_000,
    )
    parser.flag(
        "seed",
        "The seed of the messages: the defence's secret. Defaults to that of "
        "--calibration, or to one drawn by chance, which nobody is told. A trapped "
        "--model has its own.",
        command_line.whole,
    )
    parser.flag(
        "lure", "A .keras file of the network P of a lured model.", command_line.file
    )
    parser.flag("deploy", "What a lured model answers; with --lure.", options=DEPLOYS)
    parser.flag(
        "directory",
        "The model's folder; its last part is its name.",
        command_line.path,
        required=True,
    )
    parser.flag(
        "version",
        "The version. Defaults to the highest there plus 1.",
        command_line.count,
    )
    parser.flag(
        "signatures",
        "What a client may call. The default depends on the model.",
        options=SIGNATURES,
        several=True,
    )
    parser.flag("made_by", "A command that this one is a part of, for the card.")
    parser.flag(
        "warmup_batch_sizes",
        "Batch sizes to warm up.",
        command_line.count,
        default=(1, 32),
        several=True,
    )
    parser.flag(
        "format",
        "What to write beside --directory too.",
        options=FORMATS,
        default=(),
        several=True,
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Traps, measures, exports, and tells how to serve."""
    arguments = _parser().parse(argv)
    if (arguments.lure is None) != (arguments.deploy is None):
        raise CommandLineError("--lure and --deploy go together")
    if arguments.format and arguments.deploy == "agreed":
        raise CommandLineError(
            "--format writes one network, and --deploy=agreed needs two"
        )
    version = arguments.directory / str(arguments.version)
    if version.exists():
        raise CommandLineError(f"{version} exists: choose another --version")

    import trapping

    from keras_traps.devices import prepare_devices
    from keras_traps.serving import card, export

    # TensorFlow tells of every step of writing a model.
    logging.getLogger("absl").setLevel(logging.WARNING)
    prepare_devices()
    train, test = trapping.load_data(arguments)
    make = _trapped if arguments.lure is None else _lured
    subject = make(arguments, train, test)
    with refusing():
        exported = export(
            subject.model,
            arguments.directory,
            version=arguments.version,
            signatures=arguments.signatures,
            class_names=test.class_names,
            warmup_batch_sizes=arguments.warmup_batch_sizes,
            metrics=subject.metrics,
            data_sha256=test.sha256,
            examples=test.images[:_EXAMPLES],
            **subject.parts,
        )
    words = [
        word for word in arguments.command_line if not word.startswith("--made_by=")
    ]
    text = card(
        exported,
        test,
        subject.metrics,
        argv=words,
        made_by=arguments.made_by,
        note=subject.note,
    )
    (exported.path / "README.md").write_text(text, encoding="utf-8")
    _write_portable(arguments, subject, test)


def _trapped(arguments: argparse.Namespace, train: Dataset, test: Dataset) -> _Subject:
    import trapping

    from keras_traps import ForensicAnalyzer, calibrate, inject
    from keras_traps.serving import is_trapped

    clean = train.take(min(arguments.num_images, len(train)), seed=0).images
    model = trapping.load_model(arguments.model, "--model")
    metrics = {}
    with refusing():
        if not is_trapped(model):
            metrics["accuracy_classifier"] = trapping.accuracy(model, test)
            if arguments.calibration is not None:
                calibration = trapping.read_calibration(arguments.calibration)
                if arguments.seed is not None:
                    calibration = calibration.reseeded(arguments.seed)
            else:
                seed = arguments.seed
                calibration = calibrate(
                    model,
                    clean,
                    output=arguments.output,
                    seed=secrets.randbits(63) if seed is None else seed,
                )
            model = inject(model, calibration.settings)
        if arguments.analyzer is None:
            analyzer = ForensicAnalyzer(model).fit(clean, fpr=arguments.fpr)
        else:
            analyzer = ForensicAnalyzer.load(arguments.analyzer, model)
    flagged = analyzer.detect(test.images).is_adversarial
    metrics["accuracy"] = trapping.accuracy(model, test)
    metrics["false_positive_rate"] = float(flagged.mean())
    note = (
        f"What was not given by a file was set on {len(clean)} training images. The "
        f"analyzer's nominal false-positive rate is {analyzer.thresholds.fpr:.1%}."
    )
    return _Subject(model, {"analyzer": analyzer}, metrics, note)


def _lured(arguments: argparse.Namespace, train: Dataset, test: Dataset) -> _Subject:
    import trapping

    from keras_traps.models.inference import predict

    del train
    model = trapping.load_model(arguments.model, "--model")
    lure = trapping.load_model(arguments.lure, "--lure")
    with refusing():
        target = predict(model, test.images).argmax(axis=1)
        augmented = predict(model, predict(lure, test.images)).argmax(axis=1)
    metrics = {
        "accuracy_target": float((target == test.labels).mean()),
        "accuracy_augmented": float((augmented == test.labels).mean()),
        "agreement": float((target == augmented).mean()),
    }
    parts = {"lure": lure, "deploy": arguments.deploy, "output": arguments.output}
    return _Subject(model, parts, metrics)


def _write_portable(
    arguments: argparse.Namespace, subject: _Subject, test: Dataset
) -> None:
    import keras

    from keras_traps.serving import FORMATS, PortableError, export_portable

    model = subject.model
    if arguments.deploy == "augmented":
        images = keras.Input(model.input_shape[1:], name="image")
        model = keras.Model(images, model(subject.parts["lure"](images)))
    for name in arguments.format:
        directory = arguments.directory
        path = directory.with_name(f"{directory.name}{FORMATS[name].suffix}")
        try:
            difference = export_portable(model, path, examples=test.images[:_EXAMPLES])
        except (ImportError, PortableError) as error:
            print(f"No {name} file: {error}", file=sys.stderr)
        else:
            print(f"Wrote {path}: within {difference:.1g} of the live model.")


if __name__ == "__main__":
    command_line.run(main, "Start again: what is half written is not kept.")
