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
from keras_traps._validation import FloatArray
from keras_traps.attractors import Calibration
from keras_traps.devices import prepare_devices
from keras_traps.evaluation.provenance import provenance
from keras_traps.models.inference import predict
from keras_traps.models.outputs import Output
from keras_traps.serving import Deploy, Exported, Signature, export
from keras_traps.serving.portable import Format, PortableError, export_portable
from keras_traps.serving.subject import is_trapped

_EXAMPLES = 16


class _Subject(NamedTuple):
    """What is exported, and what was measured of it on the test images."""

    model: keras.Model
    parts: dict[str, Any]
    metrics: dict[str, float]


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """

    def text(name: str, default: str | None, about: str) -> None:
        flags.DEFINE_string(name, default, about, flag_values=values)

    def number(name: str, default: int | None, about: str, low: int) -> None:
        flags.DEFINE_integer(name, default, about, lower_bound=low, flag_values=values)

    def choice(name: str, default: str | None, options: object, about: str) -> None:
        flags.DEFINE_enum(
            name, default, list(get_args(options)), about, flag_values=values
        )

    text("dataset", "digits", "The data set: its training images set the thresholds.")
    text("data_dir", None, "The folder that holds the data set; see the README.")
    text("model", None, "A .keras file: a classifier, or a model trapped already.")
    choice("output", "logits", Output, "What the classifier returns.")
    text("calibration", None, "A calibration.json to use instead of a new one.")
    text("analyzer", None, "A saved analyzer of a trapped --model, for a new one.")
    flags.DEFINE_float(
        "fpr", 0.05, "The analyzer's false-positive rate.", flag_values=values
    )
    number("num_images", 10_000, "From how many training images at most.", 1)
    number(
        "seed",
        None,
        "The seed of the messages: the defence's secret. The default is that of "
        "--calibration, or one drawn by chance, which nobody is told.",
        0,
    )
    text("lure", None, "A .keras file of the network P of a lured model: no traps.")
    choice("deploy", None, Deploy, "What a lured model answers; with --lure only.")
    text("directory", None, "The model's folder; its last part is the model's name.")
    number("version", None, "The version. The default is the highest plus 1.", 1)
    flags.DEFINE_list(
        "signatures",
        None,
        f"What a client may call, of {', '.join(get_args(Signature))}. The default "
        "depends on the model.",
        flag_values=values,
    )
    text("made_by", None, "A command that this one is a part of, for the card.")
    flags.DEFINE_list(
        "warmup_batch_sizes", ["1", "32"], "Batch sizes to warm up.", flag_values=values
    )
    flags.DEFINE_multi_enum(
        "format",
        [],
        list(get_args(Format)),
        "What to write beside --directory too; give it once for each.",
        flag_values=values,
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
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {' '.join(argv[1:])}")
    if values.model is None or values.directory is None:
        raise app.UsageError("--model and --directory are required.")
    if (values.lure is None) != (values.deploy is None):
        raise app.UsageError("--lure and --deploy go together.")
    if not all(size.isdecimal() for size in values.warmup_batch_sizes):
        raise app.UsageError("--warmup_batch_sizes takes positive integers.")
    # TensorFlow tells of every step of writing a model.
    logging.set_verbosity(logging.WARNING)
    prepare_devices()
    train, test = (
        datasets.load(values.dataset, split, values.data_dir)
        for split in ("train", "test")
    )
    model = _load(values.model, "model")
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
    card = _card(exported, subject, train, test, values)
    (exported.path / "README.md").write_text(card, encoding="utf-8")
    for name in values.format:
        _write_portable(subject.model, name, test, Path(values.directory))


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
    return _Subject(trapped, {"analyzer": analyzer}, metrics)


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
    model: keras.Model, name: str, test: datasets.Dataset, directory: Path
) -> None:
    path = directory.expanduser().with_name(f"{directory.name}.{name}")
    try:
        difference = export_portable(model, path, examples=test.images[:_EXAMPLES])
    except (ImportError, PortableError) as error:
        print(f"No {name} file: {error}", file=sys.stderr)
    else:
        print(f"Wrote {path}: within {difference:.1g} of the live model.")


def _card(
    exported: Exported,
    subject: _Subject,
    train: datasets.Dataset,
    test: datasets.Dataset,
    values: flags.FlagValues,
) -> str:
    words = [word for word in sys.argv if not word.startswith("--made_by=")]
    facts = provenance(_without_seed(words))
    metrics = "\n".join(
        f"| {name.replace('_', ' ')} | {value:.2%} |"
        for name, value in subject.metrics.items()
    )
    # The part of the command that made the classifier is not known here.
    whole = "" if values.made_by is None else f"    {values.made_by}\n\nwhich runs\n\n"
    fitted = ""
    if values.lure is None:
        fitted = (
            f"\nWhat was not given by a file was set on "
            f"{min(values.num_images, len(train))} training images. The analyzer's "
            f"nominal false-positive rate is "
            f"{subject.parts['analyzer'].thresholds.fpr:.1%}.\n"
        )
    return f"""\
# {exported.path.parent.name}, version {exported.version}

Signatures: {", ".join(f"`{name}`" for name in exported.signatures)}. Images are \
float32, {" x ".join(str(size) for size in test.pixels.shape[1:])}, pixels in [0, 1].

## Data and accuracy

{test.source}; measured on its {len(test)} test images.

| | |
| :-- | --: |
{metrics}
{fitted}
SHA-256 of the test data: `{test.sha256}`

## Limits

- A saved model is a white box. Who has this folder has the classifier, the messages
  and, where `analyze` or `integrated` is among the signatures, the thresholds.
- If you did not make it yourself, its secrets are public: use it to try serving, and
  make your own, with a seed of your own, for anything else.
- The false-positive rate holds for images like those it was set on. Other images, and
  other preprocessing, may be flagged more often.
- It was not attacked in the making of this card. What attacks of several kinds do to
  such models is in the reports of `recipes/attractors.py`.

## Made by

{whole}    {facts["command"]}

on {facts["date"]}, with {", ".join(f"{k} {v}" for k, v in facts["versions"].items())}.
"""


def _without_seed(argv: Sequence[str]) -> list[str]:
    """The command line without the secret that a reader of the card is not to get."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("-seed", "--seed"):
            words[-1] = "--seed=SECRET"
        elif word.startswith(("-seed=", "--seed=")):
            words.append("--seed=SECRET")
        else:
            words.append(word)
    return words


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
