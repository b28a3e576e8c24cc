"""Trains M and the variants of M∘P, and measures each on clean images."""

import json
import sys
from collections.abc import Iterator
from typing import Any, Literal

import keras
from absl import app, flags

from keras_traps import datasets
from keras_traps._files import make_writable, write_atomically
from keras_traps._flags import Flags
from keras_traps._luring.folder import TRAINED, WHOLE, Folder, open_folder
from keras_traps._luring.plan import Splits, plan_variant, plan_whole
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.luring.losses import LuringLoss
from keras_traps.luring.metrics import CleanMetrics, clean_metrics
from keras_traps.luring.training import Backup, save_atomically
from keras_traps.models.inference import predict
from keras_traps.provenance import (
    provenance,
    rounding_environment,
    weights_sha256,
)


def define_training_flags(define: Flags) -> None:
    """Defines the flags of `train`.

    Args:
        define: Where to define them.
    """
    define.choices(
        "variant",
        [name for name in TRAINED if name != "surrogate"],
        Literal[TRAINED],
        "What to train: the classifier, one like it for an attacker, or a network "
        "before it; or, of what was trained, what to attack. Give it once for each.",
    )
    define.text(
        "model",
        None,
        "The classifier M: a .keras file that returns logits, or a DEEPSEC .npz state "
        "dict. The default is the one that --variant=target trains.",
    )
    define.choice(
        "schedule",
        "authors",
        Literal["authors", "short"],
        "The steps and rates of P: the authors', which differ by variant, with the "
        "best P kept; or a higher rate that falls like a cosine, for few steps.",
    )
    define.integer("steps", None, "How many steps. The default is the schedule's.")
    define.number(
        "peak_rate",
        None,
        "The highest rate of --schedule=short. The default is the schedule's.",
    )
    define.integer(
        "batch_size", None, "Images per step. The default is the schedule's."
    )
    define.number("width", 1.0, "Multiplies the filters of what is trained.")
    define.choice("loss", "luring", LuringLoss, "What luring is trained with.")
    define.number("luring_weight", None, "lambda. The default is the authors'.")
    define.number(
        "rotation",
        None,
        "Largest random turn of training images, degrees. The default is the authors'.",
    )
    define.number(
        "shift",
        None,
        "Largest random shift of training images, as a share of their size. The "
        "default is the authors'.",
    )
    define.number(
        "validation_split",
        None,
        "Share of training images that only say which P, of those that are looked at "
        "after each --stage, is kept; --start is one of them. 0 keeps the last. The "
        "default is the authors' with --schedule=authors, else 0.",
    )
    define.text(
        "start",
        None,
        "A trained P of the same width, such as auto.keras, whose weights P has at "
        "first; for stack also a stack.keras, that is gone on with. The default is new "
        "weights.",
    )
    define.integer(
        "stage", 500, "After how many steps the state of P is saved, and looked at."
    )


def train(values: flags.FlagValues) -> Iterator[str]:
    """Trains what `--variant` names, one after the other.

    Args:
        values: The parsed flags.

    Yields:
        What there is to tell.

    Raises:
        app.UsageError: If a flag is missing, or M is.
        FileExistsError: If a model or its backup is there and `--resume` is off.
        ValueError: If one that is there was trained with other settings.
    """
    folder = open_folder(values)
    _check_flags(values, folder)
    make_writable(folder.path, name="workdir")
    prepare_devices()
    hush_retracing()
    data = {
        split: datasets.load(values.dataset, split, values.data_dir)
        for split in ("train", "test")
    }
    for variant in sorted(values.variant, key=lambda name: name != "target"):
        path = folder.path / f"{variant}.keras"
        if path.exists() and not values.resume:
            raise FileExistsError(
                f"{path} exists. Go on with what is missing by --resume, or choose "
                "another --workdir."
            )
        plan = plan_whole if variant in WHOLE else plan_variant
        settings, run = plan(values, folder, variant, data)
        if path.with_suffix(".json").exists():
            asked = {**_origin(values, data), **settings}
            _check_same(folder, variant, asked)
            continue
        yield f"Training {variant} on {values.dataset}"
        backup = _backup(values, folder, variant, data, settings)
        model, found = run(backup)
        settings |= {**found, "seconds": backup.seconds}
        measured = _finish(values, folder, variant, model, settings, data)
        backup.discard()
        yield (
            f"{variant}: test accuracy of M {measured.target:.2%}, of this "
            f"{measured.test:.2%}, both right {measured.agree:.2%}"
        )


def _check_flags(values: flags.FlagValues, folder: Folder) -> None:
    """Refuses flags that would change nothing."""
    asked = set(values.variant)
    listed = " and ".join(sorted(asked))
    if folder.model and "target" in asked:
        raise app.UsageError("--variant=target trains a classifier; --model names one.")
    for name in ("start", "batch_size", "schedule", "peak_rate", "stage"):
        if values[name].present and asked <= set(WHOLE):
            raise app.UsageError(f"--{name} is for P, which {listed} does without.")
    for name in ("loss", "luring_weight"):
        if values[name].present and "luring" not in asked:
            raise app.UsageError(f"--{name} is for luring, and not for {listed}.")
    if values["luring_weight"].present and values.loss != "luring":
        raise app.UsageError(f"--luring_weight is not part of --loss={values.loss}.")
    if values["peak_rate"].present and values.schedule != "short":
        raise app.UsageError("--peak_rate is for --schedule=short.")
    if values["validation_split"].present:
        if asked <= {*WHOLE, "auto"}:
            raise app.UsageError(f"--validation_split is not for {listed}.")
        if not 0 <= values.validation_split < 1:
            raise app.UsageError(
                "--validation_split is a share, at least 0 and below 1. Received: "
                f"{values.validation_split}"
            )
    if values["width"].present and asked == {"surrogate"}:
        raise app.UsageError("--width is not for the surrogate: it is as wide as M.")


def _origin(values: flags.FlagValues, data: Splits) -> dict[str, Any]:
    """What all trainings depend on."""
    return {
        "dataset": values.dataset,
        "train_data": data["train"].sha256,
        "seed": values.seed,
    }


def _check_same(folder: Folder, variant: str, settings: dict[str, Any]) -> None:
    """Refuses to pass off what is there for what was asked for."""
    facts = folder.facts(variant)
    wanted = {"start_sha256": None, **json.loads(json.dumps(settings))}
    # How often it is saved along the way does not change where it ends, but for one
    # that is picked from what was saved.
    if not wanted.get("validation_split"):
        wanted.pop("stage", None)
    if changed := [name for name in wanted if facts.get(name) != wanted[name]]:
        raise ValueError(
            f"{variant} in {folder.path} was trained with other settings: "
            f"{', '.join(changed)} differ. Take another --workdir, or give the same."
        )


def _backup(
    values: flags.FlagValues,
    folder: Folder,
    variant: str,
    data: Splits,
    settings: dict[str, Any],
) -> Backup:
    facts = {
        "variant": variant,
        **_origin(values, data),
        **rounding_environment(),
        **settings,
    }
    return Backup(
        folder.path / f".{variant}.backup",
        facts,
        resume=values.resume,
    )


def _finish(
    values: flags.FlagValues,
    folder: Folder,
    variant: str,
    model: keras.Model,
    settings: dict[str, Any],
    data: Splits,
) -> CleanMetrics:
    """Saves the model, and what is true of it on the test images beside it."""
    test = data["test"]
    save_atomically(model.save, folder.path / f"{variant}.keras")
    target = folder.target()
    augmented = target if variant == "target" else folder.augmented(variant, target)
    measured = clean_metrics(
        target=predict(target, test.images).argmax(axis=1),
        augmented=predict(augmented, test.images).argmax(axis=1),
        labels=test.labels,
    )
    facts = {
        **provenance(
            sys.argv,
            model=weights_sha256(model),
            test_data=test.sha256,
        ),
        **_origin(values, data),
        "variant": variant,
        "parameters": model.count_params(),
        **settings,
        **measured._asdict(),
    }
    path = folder.path / f"{variant}.json"
    write_atomically(path, json.dumps(facts, indent=1).encode())
    return measured
