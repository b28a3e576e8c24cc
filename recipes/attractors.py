"""Traps a classifier, attacks it, and writes a report.

Example:
    python recipes/attractors.py --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --workdir=runs/mnist
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import keras
from absl import app, flags

from keras_traps import attacks, calibrate, datasets
from keras_traps._files import write_atomically
from keras_traps.attractors import Calibration
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.defence import defend
from keras_traps.evaluation.evaluate import evaluate
from keras_traps.evaluation.provenance import provenance, weights_sha256
from keras_traps.evaluation.records import check_workdir
from keras_traps.evaluation.report import write_report
from keras_traps.evaluation.results import Variant
from keras_traps.models import cifar10_resnet20, load_deepsec_weights, mnist_cnn
from keras_traps.models.outputs import Output

_PRESETS = {"mnist": "table7_mnist", "cifar10": "table7_cifar10", "digits": "digits"}
_DEEPSEC = {"mnist": mnist_cnn, "cifar10": cifar10_resnet20}


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """

    def text(name: str, default: str | None, about: str) -> None:
        flags.DEFINE_string(name, default, about, flag_values=values)

    def number(name: str, default: int, about: str, low: int = 1) -> None:
        flags.DEFINE_integer(name, default, about, lower_bound=low, flag_values=values)

    text("dataset", "digits", "The data set; its test images are attacked.")
    text("data_dir", None, "The folder that holds the data set; see the README.")
    text("model", None, "The classifier: a .keras file, or a DEEPSEC .npz state dict.")
    flags.DEFINE_enum(
        "output",
        "logits",
        list(get_args(Output)),
        "What the classifier returns.",
        flag_values=values,
    )
    text("preset", None, "The attacks' settings. The default depends on the data set.")
    flags.DEFINE_list(
        "attacks", None, "Which attacks of the preset to run.", flag_values=values
    )
    flags.DEFINE_multi_enum(
        "variant",
        ["paper", "margin", "raw_sum", "integrated"],
        list(get_args(Variant)),
        "How the attacker sees the trapped model; give it once for each.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "budget",
        0.001,
        "The share of clean training images whose answer the traps may change.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "small_step_share",
        0.5,
        "How much the small step adds to the clean spread, as a share of the large.",
        flag_values=values,
    )
    text("calibration", None, "A calibration.json to use instead of a new one.")
    flags.DEFINE_multi_float(
        "fpr",
        [0.05, 0.005],
        "The false-positive rates to set thresholds for; give it once for each.",
        flag_values=values,
    )
    number("num_examples", 1000, "How many test images to attack at most.")
    number("chunk_size", 250, "How many images are attacked at once.")
    number("seed", 0, "The seed of messages, targets and attacks.", low=0)
    text("workdir", None, "The folder for records, calibration and report.")
    flags.DEFINE_bool(
        "resume", False, "Whether to go on in a --workdir in use.", flag_values=values
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Traps, attacks, reports.

    Args:
        argv: The command line as it was given; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {' '.join(argv[1:])}")
    if values.model is None or values.workdir is None:
        raise app.UsageError("--model and --workdir are required.")
    chosen = attacks.preset(_preset(values), values.attacks)
    workdir = Path(values.workdir).expanduser()
    check_workdir(workdir, resume=values.resume)
    device = prepare_devices()
    hush_retracing()

    train, test = (
        datasets.load(values.dataset, split, values.data_dir)
        for split in ("train", "test")
    )
    classifier = load_classifier(values.dataset, Path(values.model).expanduser())
    calibration = _calibration(values, classifier, train, workdir)
    defence = defend(
        classifier, calibration.settings, train.images, fprs=tuple(values.fpr)
    )
    evaluation = evaluate(
        defence,
        calibration,
        test,
        chosen,
        workdir=workdir,
        provenance=provenance(
            sys.argv,
            seed=values.seed,
            device=device,
            classifier=weights_sha256(classifier),
            decoder=defence.main_analyzer.decoder.fingerprint,
            train_data=train.sha256,
            test_data=test.sha256,
        ),
        background=train.images,
        num_examples=values.num_examples,
        variants=tuple(values.variant),
        seed=values.seed,
        chunk_size=values.chunk_size,
        resume=values.resume,
    )
    paths = write_report(evaluation, workdir / "report")
    print(f"Report: {paths.html}")


def load_classifier(dataset: str, path: Path) -> keras.Model:
    """Loads the classifier to trap.

    Args:
        dataset: The data set's name, which chooses DEEPSEC's architecture.
        path: A `.keras` file, or a `.npz` state dict of DEEPSEC.

    Returns:
        The classifier.

    Raises:
        app.UsageError: If there is no such file, or no DEEPSEC model for the data set.
    """
    if not path.is_file():
        raise app.UsageError(f"--model names no file: {path}")
    if path.suffix != ".npz":
        return keras.saving.load_model(path)
    if dataset not in _DEEPSEC:
        raise app.UsageError(
            f"DEEPSEC has no model for {dataset}; it has {', '.join(_DEEPSEC)}."
        )
    return load_deepsec_weights(_DEEPSEC[dataset](), path)


def _preset(values: flags.FlagValues) -> str:
    if values.preset is None and values.dataset not in _PRESETS:
        raise app.UsageError(
            f"--preset is required for {values.dataset}: one of "
            f"{', '.join(attacks.PRESETS)}."
        )
    return str(values.preset or _PRESETS[values.dataset])


def _calibration(
    values: flags.FlagValues,
    classifier: keras.Model,
    train: datasets.Dataset,
    workdir: Path,
) -> Calibration:
    written = workdir / "calibration.json"
    given = values.calibration or (
        written if values.resume and written.exists() else None
    )
    if given:
        content = json.loads(Path(given).expanduser().read_text(encoding="utf-8"))
        calibration = Calibration.from_dict(content).reseeded(values.seed)
    else:
        calibration = calibrate(
            classifier,
            train.images,
            output=values.output,
            budget=values.budget,
            seed=values.seed,
            small_step_share=values.small_step_share,
        )
    write_atomically(written, json.dumps(calibration.to_dict(), indent=1).encode())
    return calibration


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
