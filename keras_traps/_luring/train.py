"""Trains M and the variants of M∘P, and measures each on clean images."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import keras
from absl import app, flags

from keras_traps import datasets
from keras_traps._files import make_writable, write_atomically
from keras_traps._flags import Flags
from keras_traps._luring.folder import TRAINED, WHOLE, Folder, open_folder
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.provenance import provenance, weights_sha256
from keras_traps.luring.losses import LuringLoss
from keras_traps.luring.metrics import CleanMetrics, clean_metrics
from keras_traps.luring.schedules import (
    LURE_SCHEDULES,
    LURING_WEIGHTS,
    SHORT_SCHEDULES,
    CosineSchedule,
    Schedule,
)
from keras_traps.luring.targets import train_target
from keras_traps.luring.training import Backup, save_atomically
from keras_traps.luring.variants import (
    check_start,
    make_lure,
    train_variant,
    untrained,
)
from keras_traps.models import cifar10_vgg, digits_cnn, madry_mnist_cnn, svhn_vgg
from keras_traps.models.inference import predict
from keras_traps.models.luring_victims import VICTIM_RECIPES, VictimRecipe

_BUILD: dict[str, Callable[..., keras.Model]] = {
    "mnist": madry_mnist_cnn,
    "svhn_cropped": svhn_vgg,
    "cifar10": cifar10_vgg,
    # To try it with; it has one width.
    "digits": lambda width: digits_cnn(),  # noqa: ARG005
}
_Splits = dict[str, datasets.Dataset]

_RECIPES = {**VICTIM_RECIPES, "digits": VictimRecipe(20, 32, (2e-3,))}


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
        "The steps and rates of P: the authors', or a higher rate that falls like a "
        "cosine, for few steps.",
    )
    define.integer("steps", None, "How many steps. The default is the schedule's.")
    define.integer(
        "batch_size", None, "Images per step. The default is the schedule's."
    )
    define.number("width", 1.0, "Multiplies the filters of what is trained.")
    define.choice("loss", "luring", LuringLoss, "What luring is trained with.")
    define.number("luring_weight", None, "lambda. The default is the authors'.")
    define.text(
        "start",
        None,
        "A trained P of the same width, such as auto.keras, whose weights P has at "
        "first. The default is new ones.",
    )
    define.integer("stage", 500, "After how many steps the state of P is saved.")


def train(values: flags.FlagValues) -> Iterator[str]:
    """Trains what `--variant` names, one after the other.

    Args:
        values: The parsed flags.

    Yields:
        What there is to tell.

    Raises:
        app.UsageError: If a flag is missing, or M is.
        FileExistsError: If a model or its backup is there and `--resume` is off.
    """
    folder = open_folder(values)
    make_writable(folder.path, name="workdir")
    if folder.model and "target" in values.variant:
        raise app.UsageError("--variant=target trains a classifier; --model names one.")
    if values.start and set(values.variant) <= set(WHOLE):
        raise app.UsageError(
            "--start names what P begins with; "
            f"{' and '.join(sorted(values.variant))} have none."
        )
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
        if not path.with_suffix(".json").exists():
            yield f"Training {variant} on {values.dataset}"
            run = _train_whole if variant in WHOLE else _train_variant
            measured = run(values, folder, variant, data)
            yield (
                f"{variant}: test accuracy of M {measured.target:.2%}, of this "
                f"{measured.test:.2%}, both right {measured.agree:.2%}"
            )


def _train_whole(
    values: flags.FlagValues, folder: Folder, variant: str, data: _Splits
) -> CleanMetrics:
    """Trains M, or what an attacker takes for it."""
    # Its batch size is the recipe's: `--batch_size` is that of P.
    seed = values.seed + (variant == "surrogate")
    settings = {"steps": values.steps, "width": values.width}
    if variant == "surrogate":
        settings["own_seed"] = seed
    backup = _backup(values, folder, variant, data, settings)
    keras.utils.set_random_seed(seed)
    if variant == "surrogate":
        model = untrained(folder.target())
    else:
        model = _BUILD[values.dataset](width=values.width)
    began = time.monotonic()
    score = train_target(
        model,
        data["train"],
        _RECIPES[values.dataset],
        steps=values.steps,
        seed=seed,
        backup=backup,
    )
    settings |= {"seconds": time.monotonic() - began, "validation_accuracy": score}
    measured = _finish(values, folder, variant, model, settings, data["test"])
    backup.discard()
    return measured


def _train_variant(
    values: flags.FlagValues, folder: Folder, variant: Any, data: _Splits
) -> CleanMetrics:
    target = folder.target()
    schedules: Mapping[str, Schedule | CosineSchedule] = (
        LURE_SCHEDULES if values.schedule == "authors" else SHORT_SCHEDULES
    )
    schedule = schedules[values.dataset]
    if values.batch_size is not None:
        schedule = dataclasses.replace(schedule, batch_size=values.batch_size)
    if values.steps is not None:
        schedule = schedule.scaled(values.steps)
    weight = values.luring_weight
    if weight is None:
        weight = LURING_WEIGHTS[values.dataset]
    settings = {
        **dataclasses.asdict(schedule),
        "width": values.width,
        "stage": values.stage,
        "target_sha256": weights_sha256(target),
    }
    if variant == "luring":
        settings |= {"loss": values.loss, "luring_weight": weight}
    start = _load_start(values)
    if start is not None:
        lure = make_lure(variant, values.dataset, width=values.width)
        # Before there is a backup that says otherwise.
        check_start(start, lure, target.input_shape)
        settings["start_sha256"] = weights_sha256(start)
    backup = _backup(values, folder, variant, data, settings)
    began = time.monotonic()
    model = train_variant(
        variant,
        target,
        data["train"],
        schedule,
        output="logits",
        width=values.width,
        loss=values.loss,
        luring_weight=weight,
        start=start,
        seed=values.seed,
        stage=values.stage,
        backup=backup,
    )
    settings["seconds"] = time.monotonic() - began
    measured = _finish(values, folder, variant, model, settings, data["test"])
    backup.discard()
    return measured


def _load_start(values: flags.FlagValues) -> keras.Model | None:
    if values.start is None:
        return None
    path = Path(values.start).expanduser()
    if not path.is_file():
        raise app.UsageError(f"There is no {path}: --start names a trained P.")
    return keras.saving.load_model(path, compile=False)


def _backup(
    values: flags.FlagValues,
    folder: Folder,
    variant: str,
    data: _Splits,
    settings: dict[str, Any],
) -> Backup:
    facts = {
        "variant": variant,
        "dataset": values.dataset,
        "train_data": data["train"].sha256,
        "seed": values.seed,
        **settings,
    }
    return Backup(folder.path / f".{variant}.backup", facts, resume=values.resume)


def _finish(
    values: flags.FlagValues,
    folder: Folder,
    variant: str,
    model: keras.Model,
    settings: dict[str, Any],
    test: datasets.Dataset,
) -> CleanMetrics:
    """Saves the model, and what is true of it on the test images beside it."""
    save_atomically(model.save, folder.path / f"{variant}.keras")
    target = folder.target()
    augmented = target if variant == "target" else folder.augmented(variant, target)
    measured = clean_metrics(
        predict(target, test.images).argmax(axis=1),
        predict(augmented, test.images).argmax(axis=1),
        test.labels,
    )
    facts = {
        **provenance(
            sys.argv,
            seed=values.seed,
            model=weights_sha256(model),
            test_data=test.sha256,
        ),
        "variant": variant,
        "dataset": values.dataset,
        "parameters": model.count_params(),
        **settings,
        **measured._asdict(),
    }
    path = folder.path / f"{variant}.json"
    write_atomically(path, json.dumps(facts, indent=1).encode())
    return measured
