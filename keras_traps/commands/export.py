"""Traps a classifier, or takes a lured one, and exports it for serving."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from keras_traps.commands import command_line
from keras_traps.commands.command_line import (
    CommandLineError,
    Flags,
    count,
    file,
    given,
    path,
    refusing,
)

if TYPE_CHECKING:
    import keras

    from keras_traps._checks import Bounds
    from keras_traps.datasets import Dataset

SIGNATURES = (
    *("serving_default", "analyze", "integrated", "predict_agreed"),
    *("serving_uint8", "image_bytes"),
)
DEPLOYS = ("augmented", "target", "agreed")
FORMATS = ("onnx", "openvino", "tflite")

_EXAMPLES = 16


def add_flags(parser: command_line.Parser) -> None:
    """Adds the flags of an export."""
    command_line.add_data(parser)
    about = "A .keras file: a classifier, or a trapped model."
    parser.flag("model", about, file, required=True)
    command_line.add_bounds(parser)
    about = (
        "What the classifier returns. Defaults to what its answers look like, which is "
        "told; a --calibration and a trapped --model have their own."
    )
    parser.flag("output", about, options=command_line.OUTPUTS)
    about = "A calibration.json to use in place of a new one."
    parser.flag("calibration", about, file)
    parser.flag("analyzer", "A saved analyzer of a trapped --model to use.", file)
    about = "The false-positive rate of a new analyzer."
    parser.flag("fpr", about, command_line.share, default=0.05)
    about = "From how many training images at most."
    parser.flag("num_images", about, count, default=10_000)
    command_line.add_key(
        parser, "a new key that is kept nowhere; a trapped --model has its own"
    )
    parser.flag("lure", "A .keras file of the network P of a lured model.", file)
    parser.flag("deploy", "What a lured model answers; with --lure.", options=DEPLOYS)
    about = "The model's folder; its last part is its name."
    parser.flag("directory", about, path, required=True)
    parser.flag("version", "The version. Defaults to the highest there plus 1.", count)
    about = "What a client may call. The default depends on the model."
    parser.flag("signatures", about, options=SIGNATURES, several=True)
    parser.flag("made_by", "A command that this one is a part of, for the card.")
    about = "Batch sizes to warm up."
    parser.flag("warmup_batch_sizes", about, count, default=(1, 32), several=True)
    about = "What to write beside --directory too."
    parser.flag("format", about, options=FORMATS, default=(), several=True)


def export(arguments: Flags) -> None:
    """Traps, measures, exports, and tells how to serve."""
    if (arguments.lure is None) != (arguments.deploy is None):
        raise CommandLineError("--lure and --deploy go together")
    if arguments.format and arguments.deploy == "agreed":
        raise CommandLineError(
            "--format writes one network, and --deploy=agreed needs two"
        )
    version = arguments.directory / str(arguments.version)
    if version.exists():
        raise CommandLineError(f"{version} exists: choose another --version")

    from keras_traps import serving
    from keras_traps.commands import trapping
    from keras_traps.devices import prepare_devices
    from keras_traps.luring.training import join
    from keras_traps.models.forms import check_data, for_model

    # TensorFlow tells of every step of writing a model.
    logging.getLogger("absl").setLevel(logging.WARNING)
    prepare_devices()
    train, test = trapping.load_data(arguments)
    model = trapping.load_classifier(arguments.model, arguments.dataset)
    with refusing():
        check_data(model, test, name="--model")
        if arguments.lure is None:
            clean = train.take(min(arguments.num_images, len(train)), seed=0)
            held_out = clean
            if arguments.analyzer is None:
                held_out, test = trapping.threshold_images(clean, test, [arguments.fpr])
            model, parts, metrics = _trapped(arguments, model, clean, held_out, test)
            bounds = parts["analyzer"].bounds
            note = (
                f"What was not given by a file was set on {len(clean)} training "
                f"images, and thresholds on {len(held_out)} "
                f"{'of these' if held_out is clean else 'other test images'}. "
                "The analyzer's nominal false-positive rate is "
                f"{parts['analyzer'].thresholds.fpr:.1%}."
            )
        else:
            parts, metrics, bounds = _lured(arguments, model, test)
            note = ""
        examples = for_model(model, test.images[:_EXAMPLES], bounds)
        exported = serving.export(
            model,
            arguments.directory,
            bounds=bounds,
            version=arguments.version,
            signatures=arguments.signatures,
            class_names=test.class_names,
            warmup_batch_sizes=arguments.warmup_batch_sizes,
            metrics=metrics,
            data_sha256=test.sha256,
            examples=examples,
            **parts,
        )
    words = [
        word for word in arguments.command_line if not word.startswith("--made_by=")
    ]
    made_by = arguments.made_by
    text = serving.card(exported, test, metrics, argv=words, made_by=made_by, note=note)
    (exported.path / "README.md").write_text(text, encoding="utf-8")
    if arguments.deploy == "augmented":
        model = join(parts["lure"], model)
    for name in arguments.format:
        file_name = f"{arguments.directory.name}{serving.FORMATS[name].suffix}"
        beside = arguments.directory.with_name(file_name)
        try:
            difference = serving.export_portable(
                model, beside, bounds=bounds, examples=examples
            )
        except (ImportError, serving.PortableError) as error:
            print(f"No {name} file: {error}", file=sys.stderr)
        else:
            print(f"Wrote {beside}: within {difference:.1g} of the live model.")


def _trapped(
    arguments: Flags,
    model: keras.Model,
    clean: Dataset,
    held_out: Dataset,
    test: Dataset,
) -> tuple[keras.Model, dict[str, Any], dict[str, float]]:
    """Returns the trapped model, its analyzer and what was measured of both."""
    from keras_traps import ForensicAnalyzer, calibrate, inject
    from keras_traps.commands import trapping
    from keras_traps.models.forms import find_bounds, for_model
    from keras_traps.serving import is_trapped

    metrics = {}
    if not is_trapped(model):
        key, asked = trapping.read_key(arguments), given(arguments, "bounds", "output")
        if arguments.calibration is not None:
            calibration = trapping.read_calibration(arguments.calibration, key)
            trapping.check_made_with(arguments.calibration, calibration, asked)
        else:
            images = for_model(
                model, clean.images, find_bounds(model, arguments.bounds)
            )
            calibration = calibrate(model, images, clean.labels, key=key, **asked)
        settings = calibration.settings
        metrics["accuracy_classifier"] = trapping.accuracy(
            model, test, settings.output, settings.bounds
        )
        model = inject(model, settings)
        trapping.keep_key(arguments, key)
    bounds = find_bounds(model, arguments.bounds)
    if arguments.analyzer is None:
        images = for_model(model, held_out.images, bounds)
        analyzer = ForensicAnalyzer(model).fit(images, fpr=arguments.fpr)
    else:
        analyzer = ForensicAnalyzer.load(arguments.analyzer, model)
    flagged = analyzer.detect(for_model(model, test.images, bounds)).is_adversarial
    metrics["accuracy"] = trapping.accuracy(model, test, "scores", bounds)
    metrics["false_positive_rate"] = float(flagged.mean())
    return model, {"analyzer": analyzer}, metrics


def _lured(
    arguments: Flags, model: keras.Model, test: Dataset
) -> tuple[dict[str, Any], dict[str, float], Bounds]:
    """Returns P with how it is deployed, what was measured, and M's bounds."""
    from keras_traps.commands import trapping
    from keras_traps.luring.training import join
    from keras_traps.models.forms import find_bounds, for_model
    from keras_traps.models.inference import predict
    from keras_traps.models.outputs import answers_of, output_of

    lure = trapping.load_model(arguments.lure, "--lure")
    bounds = find_bounds(join(lure, model), arguments.bounds)
    images, output = for_model(model, test.images, bounds), arguments.output
    outputs = predict(model, images)
    if output is None:
        output = output_of(outputs)
        print(f"The outputs of {model.name!r} are taken for {output}.")
    lured = predict(model, predict(lure, images))
    target, augmented = (
        answers_of(each, output).argmax(axis=1) for each in (outputs, lured)
    )
    metrics = {
        "accuracy_target": float((target == test.labels).mean()),
        "accuracy_augmented": float((augmented == test.labels).mean()),
        "agreement": float((target == augmented).mean()),
    }
    parts = {"lure": lure, "deploy": arguments.deploy, "output": output}
    return parts, metrics, bounds
