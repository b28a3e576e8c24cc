"""What commands do with their flags: load, calibrate, trap, choose attacks.

Whatever a user can do wrong is a `CommandLineError`.
"""

import dataclasses
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras

from keras_traps import attacks, calibrate, datasets
from keras_traps._checks import UNIT, Bounds
from keras_traps._files import keep_settings, make_writable
from keras_traps.attractors import Calibration
from keras_traps.commands.command_line import CommandLineError, Flags, given, refusing
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.records import RecordStore, check_workdir, record_settings
from keras_traps.evaluation.subjects import Defence, defend
from keras_traps.models import cifar10_resnet20, load_deepsec_weights, mnist_cnn
from keras_traps.models.forms import check_data, class_answers, for_model
from keras_traps.models.outputs import AttackedOutput, check_classifier
from keras_traps.models.training import hold_out
from keras_traps.ops import Key
from keras_traps.provenance import provenance, weights_sha256

_DEEPSEC = {"mnist": mnist_cnn, "cifar10": cifar10_resnet20}
PRESETS = {"mnist": "table7_mnist", "cifar10": "table7_cifar10", "digits": "digits"}

# Attacks of no preset have the settings of one that it has.
_LIKE = {
    **dict.fromkeys(("Noise", "NES", "Square", "RayS", "FGM"), "FGSM"),
    "Madry": "PGD",
    "MIM": "UMIFGSM",
}


# How many clean images are to lie above a threshold, for its rate to be about right.
_ABOVE = 2


class Trapped(NamedTuple):
    """A classifier with its traps, and what a reader needs to make it again."""

    defence: Defence
    calibration: Calibration
    provenance: dict[str, Any]
    test: datasets.Dataset  # the test images that no threshold was set by


def load_data(
    arguments: Flags, model: keras.Model | None = None
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Loads the training and the test images of `--dataset`.

    Those of a folder are resized as the model takes them, or that of `--model`.
    """
    name, folder = arguments.dataset, arguments.data_dir
    size = arguments.image_size or None
    if size is None and name.startswith("folder:"):
        if model is None and arguments.model is not None:
            model = load_classifier(arguments.model, name)
        # Flat images tell no height.
        if model is not None and len(shape := model.input_shape[1:]) > 1:
            size = *shape[:2], 3 if shape[2:] == (3,) else 1
    with refusing():
        splits = [
            datasets.load(name, "train", folder, image_size=size),
            datasets.load(name, "test", folder, image_size=size),
        ]
    # One of them may be without images of the last classes.
    whole = max(splits, key=lambda split: split.num_classes)
    train, test = (
        dataclasses.replace(
            split, num_classes=whole.num_classes, class_names=whole.class_names
        )
        for split in splits
    )
    return train, test


def threshold_images(
    train: datasets.Dataset, test: datasets.Dataset, fprs: Sequence[float]
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Returns the images that set the thresholds, and the test images that remain.

    A classifier is surer of what it was trained on, and C4 looks at that: half of the
    test images are for the thresholds, where two of them lie above each. They are
    chosen at random, always the same: MNIST's first half is harder than its second.
    """
    half = len(test) // 2
    if half * min(fprs) < _ABOVE:
        return train, test
    rest, held = hold_out(test, half, seed=0)
    return held or train, rest


def load_model(path: Path, flag: str) -> keras.Model:
    """Loads a file that a flag names, without the model's optimizer."""
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras, HDF5 and zipfile each raise their own.
        raise CommandLineError(
            f"{flag} cannot be read: {_why_not(path, error)}"
        ) from error
    if isinstance(getattr(model, "output", None), list) and len(model.outputs) == 1:
        # Old files have it so; whoever calls the model would get a list.
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def _why_not(path: Path, error: Exception) -> str:
    """Says why a model's file cannot be loaded, and what to do about it."""
    text = " ".join(str(error).split())
    main = "then calls the `main` of this one with the same arguments"
    if (made_by := _keras_version(path)).startswith(("1.", "2.")):
        return (
            f"{path} was saved by Keras {made_by}, whose files Keras "
            f"{keras.__version__} reads in part. Save the weights where it was made, "
            "by `model.save_weights('it.weights.h5')`, build the same layers under "
            "Keras 3, load these into them by `load_weights`, and save a .keras file"
        )
    if unknown := re.search(r"(?:Could not locate class|Unknown layer:) '(.+?)'", text):
        return (
            f"{path} holds {unknown[1]!r}, a class of your own. Decorate it with "
            "`@keras.saving.register_keras_serializable()`, and start from a script "
            f"that imports it and {main}"
        )
    if "safe_mode" in text:
        return (
            f"{path} holds a Lambda layer, which can run any code. Put a layer such as "
            "Rescaling in its place, or, if you trust the file, start from a script "
            f"that calls `keras.config.enable_unsafe_deserialization()` and {main}"
        )
    return text


def _keras_version(path: Path) -> str:
    """Reads which Keras wrote a model's file; empty where it does not tell."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                return str(json.loads(file.read("metadata.json"))["keras_version"])
        with h5py.File(path) as file:
            return str(file.attrs["keras_version"])
    except (KeyError, OSError, ValueError):
        return ""


def load_classifier(path: Path, dataset: str) -> keras.Model:
    """Loads a model's file, or DEEPSEC's `.npz` state dict for the data set."""
    if path.suffix != ".npz":
        model = load_model(path, "--model")
        with refusing():
            check_classifier(model, "logits", name="--model")
        return model
    if dataset not in _DEEPSEC:
        raise CommandLineError(
            f"DEEPSEC has no model for {dataset}; it has {', '.join(_DEEPSEC)}"
        )
    with refusing("--model cannot be read"):
        return load_deepsec_weights(_DEEPSEC[dataset](), path)


def accuracy(
    model: keras.Model,
    data: datasets.Dataset,
    output: AttackedOutput = "logits",
    bounds: Bounds = UNIT,
) -> float:
    """Returns the share of images that a classifier gets right."""
    answers = class_answers(model, data.images, output, bounds).argmax(axis=1)
    return float((answers == data.labels).mean())


def read_key(arguments: Flags, default: Path | None = None) -> Key:
    """Returns the key of `add_key`'s flags, a new one where there is none yet."""
    path = arguments.key_file or default
    if arguments.public_key is not None:
        if arguments.key_file is not None:
            raise CommandLineError("--public_key takes the place of --key_file")
        return Key.from_seed(arguments.public_key)
    with refusing("--key_file"):
        return Key.load(path) if path is not None and path.exists() else Key()


def keep_key(arguments: Flags, key: Key, default: Path | None = None) -> None:
    """Writes a new secret key to its file."""
    path = arguments.key_file or default
    if arguments.public_key is None and path is not None and not path.exists():
        with refusing("--key_file"):
            key.save(path)


def read_calibration(path: Path, key: Key) -> Calibration:
    """Reads a `calibration.json`, for the traps of a key."""
    with refusing(f"{path} is no calibration"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Calibration.from_dict(data, key=key)
        except (AttributeError, TypeError) as error:
            raise ValueError(error) from error


def trap(arguments: Flags, train: datasets.Dataset, test: datasets.Dataset) -> Trapped:
    """Loads, calibrates and traps what the flags of `add_traps` name."""
    device = prepare_devices()
    hush_retracing()
    classifier = load_classifier(arguments.model, arguments.dataset)
    with refusing():
        check_data(classifier, test, name="--model")
        calibration = _calibration(arguments, classifier, train)
        settings, fprs = calibration.settings, arguments.fpr
        held_out, rest = threshold_images(train, test, fprs)
        defence = defend(classifier, settings, held_out.images, fprs=fprs)
    keep_key(arguments, settings.key, arguments.workdir / "key")
    facts = provenance(
        arguments.command_line,
        seed=arguments.seed,
        device=device,
        classifier=weights_sha256(classifier),
        decoder=defence.main_analyzer.decoder.fingerprint,
        train_data=train.sha256,
        test_data=test.sha256,
        **{
            "images that set the thresholds": f"{len(held_out)} "
            + ("training" if held_out is train else "test")
            + " images"
        },
    )
    return Trapped(defence, calibration, facts, rest)


def _calibration(
    arguments: Flags, classifier: keras.Model, train: datasets.Dataset
) -> Calibration:
    """Reads the calibration of `--calibration` or `--resume`, or makes one."""
    names = ("bounds", "output", "budget", "small_step_share")
    asked = given(arguments, *names)
    key = read_key(arguments, arguments.workdir / "key")
    path, written = arguments.calibration, arguments.workdir / "calibration.json"
    if path is None and arguments.resume and written.exists():
        path = written
    if path is None:
        images = for_model(classifier, train.images, asked.get("bounds", UNIT))
        return calibrate(classifier, images, train.labels, key=key, **asked)
    calibration = read_calibration(path, key)
    check_made_with(path, calibration, asked)
    return calibration


def check_made_with(
    path: Path, calibration: Calibration, asked: Mapping[str, Any]
) -> None:
    """Refuses flags that a calibration was not made with."""
    there = {**calibration.to_dict(), **calibration.settings.to_dict()}
    for name, value in asked.items():
        if there[name] != value:
            made, wanted = (
                ",".join(f"{one:g}" for one in each) if name == "bounds" else each
                for each in (there[name], value)
            )
            raise CommandLineError(
                f"{path} was made with --{name}={made}, not --{name}={wanted}"
            )


def begin(arguments: Flags) -> None:
    """Makes `--workdir`, and refuses one in use without `--resume`."""
    with refusing():
        make_writable(arguments.workdir, name="workdir")
        check_workdir(arguments.workdir, resume=arguments.resume)


def open_store(
    arguments: Flags,
    trapped: Trapped,
    train: datasets.Dataset,
    test: datasets.Dataset,
) -> RecordStore:
    """Opens the records in `--workdir`, and keeps the calibration beside them."""
    settings = record_settings(
        test,
        seed=arguments.seed,
        chunk_size=arguments.chunk_size,
        background=train.images,
        defence=trapped.defence,
    )
    path = arguments.workdir / "calibration.json"
    with refusing():
        store = RecordStore(arguments.workdir, settings, resume=arguments.resume)
        keep_settings(path, trapped.calibration.to_dict(), resume=True)
    return store


def preset_name(arguments: Flags) -> str:
    """Returns the name of the preset that `--preset` means for the data set."""
    name = str(arguments.preset)
    if name in ("paper", "cpu"):
        name = PRESETS.get(arguments.dataset, "")
        if arguments.preset == "cpu" and f"{name}_cpu" in attacks.PRESETS:
            name = f"{name}_cpu"
    if name not in attacks.PRESETS:
        raise CommandLineError(
            f"--preset={arguments.preset} means nothing for {arguments.dataset}: name "
            f"one of {', '.join(attacks.PRESETS)}"
        )
    return name


def choose_attacks(
    arguments: Flags, default: Sequence[str] | None = None
) -> list[attacks.Attack]:
    """Returns the attacks of `--attacks`, else `default`, else all of the preset.

    A preset that lacks one of `default` is of other attacks.
    """
    known = attacks.PRESETS[preset_name(arguments)]
    usual = default if default and {*default} <= {*known} else tuple(known)
    names = arguments.attacks or usual
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        ours = name.removeprefix("cleverhans/")
        like = name if name in known else _LIKE.get(ours, ours)
        chosen[name] = {**known.get(like, {})}
    if unknown := [name for name in names if name not in attacks.names()]:
        raise CommandLineError(
            f"--attacks has to be of {', '.join(attacks.names())}, not "
            f"{', '.join(unknown)}"
        )
    try:
        for text in arguments.setting:
            where, _, value = text.partition("=")
            name, _, field = where.rpartition(".")
            chosen[name][field] = json.loads(value)
        return [attacks.create(name, **settings) for name, settings in chosen.items()]
    except (KeyError, TypeError, ValueError) as error:
        raise CommandLineError(
            "--setting has to be ATTACK.NAME=VALUE, of one of the attacks that run "
            f"({', '.join(chosen)}), and what the preset does not have has to be set. "
            f"Received: --setting={', '.join(arguments.setting)} ({error})"
        ) from error
