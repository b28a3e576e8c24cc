"""What recipes that trap a classifier and evaluate it have in common."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
from absl import app, flags

from keras_traps import datasets
from keras_traps._classifier_files import load_classifier
from keras_traps._flags import Flags
from keras_traps._recipe_calibration import find_calibration
from keras_traps.attractors import Calibration
from keras_traps.attractors.integration import check_recovery_classifier
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.defence import Defence, defend
from keras_traps.evaluation.engines import Engine, LocalEngine
from keras_traps.evaluation.jobs import RECOVERIES, Job, Subject
from keras_traps.evaluation.kept_calibration import check_calibration
from keras_traps.layers.detect_recover import needs_classifier
from keras_traps.models.outputs import Output
from keras_traps.provenance import provenance, weights_sha256

EngineName = Literal["local", "ray"]


class Trapped(NamedTuple):
    """A classifier with its traps, and what it was made from.

    Args:
        defence: The classifier and its traps.
        calibration: How the traps' constants were chosen.
        train: The training images.
        test: The test images.
        provenance: What a reader needs to make it again.
    """

    defence: Defence
    calibration: Calibration
    train: datasets.Dataset
    test: datasets.Dataset
    provenance: dict[str, Any]


def define_defence_flags(values: flags.FlagValues) -> Flags:
    """Defines the flags that say which classifier is trapped, and how.

    Args:
        values: Where to define them.

    Returns:
        What defines further flags in the same place.
    """
    define = Flags(values)
    define.text("dataset", "digits", "The data set; its test images are attacked.")
    define.text("data_dir", None, "The folder that holds the data set; see the README.")
    define.text(
        "model", None, "The classifier: a .keras file, or a DEEPSEC .npz state dict."
    )
    define.choice("output", "logits", Output, "What the classifier returns.")
    define.number(
        "budget",
        0.001,
        "The share of clean training images whose answer the traps may change.",
    )
    define.number(
        "small_step_share",
        0.5,
        "How much the small step adds to the clean spread, as a share of the large. A "
        "--calibration has its own; where its file does not tell, say it here.",
    )
    define.number(
        "temperature",
        None,
        "The temperature of the soft labels that W is added to; 1 leaves them as the "
        "classifier has them. The default is chosen from clean training images. A "
        "--calibration has its own.",
    )
    define.number(
        "border_weight",
        1.0,
        "What the decoder's pixels at the border weigh beside those in the middle; "
        "above 1 leads attacks on few pixels to the border. A --calibration has its "
        "own.",
    )
    define.text("calibration", None, "A calibration.json to use instead of a new one.")
    define.numbers(
        "fpr",
        [0.05, 0.005],
        "The false-positive rates to set thresholds for; give it once for each.",
    )
    define.number(
        "recovery_weight",
        1.0,
        "How much W counts beside C where the integrated model recovers by C - W.",
    )
    define.integer("seed", 0, "The seed of messages, targets and attacks.", low=0)
    define.text("workdir", None, "The folder for records, calibration and report.")
    define.switch("resume", False, "Whether to go on in a --workdir in use.")
    return define


def define_evaluation_flags(define: Flags) -> None:
    """Defines the flags that say how many images are attacked, and where.

    Args:
        define: What `define_defence_flags` returned.
    """
    define.text(
        "recovery_model",
        None,
        "Another classifier, whose answer counts in place of that of --model where the "
        "integrated model recovers by C - W or by depth.",
    )
    define.integer("num_examples", 1000, "How many test images to attack at most.")
    define.integer("chunk_size", 250, "How many images are attacked at once.")
    define.choice(
        "engine",
        "local",
        EngineName,
        "Where the attacks run: in this process, or spread by Ray over the cores or "
        "GPUs of this machine, or over the cluster that RAY_ADDRESS names.",
    )


def trap(values: flags.FlagValues, workdir: Path) -> Trapped:
    """Loads, calibrates and traps what the flags name.

    Args:
        values: The parsed flags.
        workdir: Where `calibration.json` is read from with `--resume`; nothing is
            written there.

    Returns:
        The trapped classifier.

    Raises:
        app.UsageError: If `--model` names no classifier for the data set, or a flag
            is not what the calibration was made with.
        ValueError: If `workdir` keeps another calibration.
    """
    device = prepare_devices()
    hush_retracing()
    train, test = (
        datasets.load(values.dataset, split, values.data_dir)
        for split in ("train", "test")
    )
    classifier = load_classifier(values.dataset, Path(values.model).expanduser())
    asked = _recovery_classifier(values, classifier)
    calibration = find_calibration(values, classifier, train, workdir)
    check_calibration(calibration, workdir)
    defence = defend(
        classifier,
        calibration.settings,
        train.images,
        fprs=tuple(values.fpr),
        recovery_weight=values.recovery_weight,
        recovery_classifier=asked,
    )
    facts = provenance(
        sys.argv,
        seed=values.seed,
        device=device,
        classifier=weights_sha256(classifier),
        **({} if asked is None else {"recovery classifier": weights_sha256(asked)}),
        decoder=defence.main_analyzer.decoder.fingerprint,
        train_data=train.sha256,
        test_data=test.sha256,
    )
    return Trapped(defence, calibration, train, test, facts)


def make_engine(name: EngineName, job: Job) -> Engine:
    """Makes what runs the attacks.

    Args:
        name: The value of `--engine`.
        job: What all tasks need.

    Returns:
        The engine.

    Raises:
        ImportError: If Ray is asked for and not installed.
    """
    if name == "local":
        return LocalEngine(job)
    from keras_traps.evaluation.ray_engine import RayEngine

    return RayEngine(job)


def check_required(values: flags.FlagValues, names: Sequence[str]) -> None:
    """Refuses a command line that lacks a flag.

    Args:
        values: The parsed flags.
        names: The flags that must be given.

    Raises:
        app.UsageError: If one is missing.
    """
    if any(values[name].value is None for name in names):
        listed = " and ".join(f"--{name}" for name in names)
        verb = "is" if len(names) == 1 else "are"
        raise app.UsageError(f"{listed} {verb} required.")


def check_recovery_model(values: flags.FlagValues, subjects: Sequence[Subject]) -> None:
    """Refuses another classifier to ask where none is asked.

    Args:
        values: The parsed flags.
        subjects: What is attacked.

    Raises:
        app.UsageError: If `--recovery_model` is given and no subject asks it.
    """
    asking = [name for name, how in RECOVERIES.items() if needs_classifier(how)]
    if values.recovery_model is not None and not {*asking} & {*subjects}:
        raise app.UsageError(
            f"--recovery_model is asked by {' and '.join(asking)} alone. Received: "
            f"--recovery_model={values.recovery_model} to attack "
            f"{', '.join(subjects) or 'nothing'}"
        )


def _recovery_classifier(
    values: flags.FlagValues, classifier: keras.Model
) -> keras.Model | None:
    if "recovery_model" not in values or values.recovery_model is None:
        return None
    flag = "--recovery_model"
    path = Path(values.recovery_model).expanduser()
    asked = load_classifier(values.dataset, path, flag=flag)
    try:
        check_recovery_classifier(asked, classifier)
    except ValueError as error:
        raise app.UsageError(f"{flag} cannot be asked: {path} ({error})") from error
    return asked
