"""Trains M and the variants of M∘P, and measures each on clean images."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import keras
from luring_folder import VARIANTS, WHOLE, Folder

from keras_traps._files import keep_settings, make_writable, write_atomically
from keras_traps.commands.command_line import CommandLineError, Flags, given, refusing
from keras_traps.commands.trapping import load_data, load_model
from keras_traps.datasets import Dataset
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.luring.metrics import clean_metrics
from keras_traps.luring.schedules import LURE_RECIPES, authors_schedule
from keras_traps.luring.training import (
    Backup,
    check_start,
    make_lure,
    train_target,
    train_variant,
    untrained,
)
from keras_traps.models import cifar10_vgg, digits_cnn, madry_mnist_cnn, svhn_vgg
from keras_traps.models.architectures import VICTIM_RECIPES
from keras_traps.models.forms import check_data
from keras_traps.models.inference import predict
from keras_traps.models.training import save_model
from keras_traps.provenance import provenance, rounding_environment, weights_sha256

_BUILD: dict[str, Callable[[float], keras.Model]] = {
    "mnist": madry_mnist_cnn,
    "svhn_cropped": svhn_vgg,
    "cifar10": cifar10_vgg,
    # To try it with; it has one width.
    "digits": lambda _: digits_cnn(),
}

# What a training depends on; and what trains the model, and tells more of it.
_Plan = tuple[dict[str, Any], Callable[[Backup], tuple[keras.Model, dict[str, Any]]]]


def train(arguments: Flags) -> None:
    """Trains what `--variant` names, and measures each on the test images."""
    folder = Folder.of(arguments)
    asked = arguments.variant
    if asked is None:
        asked = VARIANTS if folder.model else ("target", *VARIANTS)
    variants = [name for name in (*WHOLE, *VARIANTS) if name in asked]
    if folder.model and "target" in variants:
        raise CommandLineError(
            "--variant=target trains a classifier, and --model names one"
        )
    data, test = load_data(arguments)
    with refusing():
        make_writable(folder.path, name="workdir")
        if folder.model:
            check_data(folder.target(), test, name="--model")
    prepare_devices()
    hush_retracing()
    for variant in variants:
        plan = _plan_whole if variant in WHOLE else _plan_variant
        kept = folder.path / f".{variant}.settings.json"
        with refusing():
            settings, run = plan(arguments, folder, variant, data)
            settings |= {
                "variant": variant,
                "dataset": data.name,
                "seed": arguments.seed,
                "train_data": data.sha256,
                **rounding_environment(),
            }
            # What is there is not passed off for what is asked for.
            if (folder.path / f"{variant}.keras").exists():
                keep_settings(kept, settings, resume=arguments.resume)
            if folder.trained([variant]):
                continue
            place = folder.path / f".{variant}.backup"
            backup = Backup(place, settings, resume=arguments.resume)
        print(f"Training {variant} on {data.name}", flush=True)
        model, found = run(backup)
        keep_settings(kept, settings, resume=True)
        save_model(model, folder.path / f"{variant}.keras")
        target = folder.target()
        augmented = target if variant == "target" else folder.augmented(variant, target)
        measured = clean_metrics(
            target=predict(target, test.images).argmax(axis=1),
            augmented=predict(augmented, test.images).argmax(axis=1),
            labels=test.labels,
        )
        facts = {
            **provenance(arguments.command_line, model=weights_sha256(model)),
            "target_sha256": weights_sha256(target),
            "test_data": test.sha256,
            "parameters": model.count_params(),
            **settings,
            **found,
            "seconds": backup.seconds,
            **measured._asdict(),
        }
        path = folder.path / f"{variant}.json"
        write_atomically(path, json.dumps(facts, indent=1).encode())
        print(
            f"{variant}: test accuracy of M {measured.target:.2%}, of this "
            f"{measured.test:.2%}, both right {measured.agree:.2%}",
            flush=True,
        )
        backup.discard()


def _plan_whole(arguments: Flags, folder: Folder, variant: str, data: Dataset) -> _Plan:
    """Plans the training of M, or of what an attacker takes for it."""
    seed, moves = arguments.seed + (variant == "surrogate"), _moves(arguments)
    recipe = dataclasses.replace(VICTIM_RECIPES[arguments.dataset], **moves)
    settings = {"steps": arguments.steps, **moves}
    if variant == "surrogate":
        make = functools.partial(untrained, folder.target())
        settings["own_seed"] = seed
    else:
        make = functools.partial(_BUILD[arguments.dataset], arguments.width)
        settings["width"] = arguments.width

    def run(backup: Backup) -> tuple[keras.Model, dict[str, Any]]:
        keras.utils.set_random_seed(seed)
        model, steps = make(), arguments.steps
        picked = train_target(
            model, data, recipe, steps=steps, seed=seed, backup=backup
        )
        return model, {"validation_accuracy": picked.score}

    return settings, run


def _plan_variant(
    arguments: Flags, folder: Folder, variant: Any, data: Dataset
) -> _Plan:
    """Plans the training of a network before M."""
    target = folder.target()
    recipe = LURE_RECIPES[arguments.dataset]
    changed = given(arguments, "batch_size")
    schedule = recipe.short
    if arguments.schedule == "authors":
        schedule = authors_schedule(variant, arguments.dataset)
    elif arguments.peak_rate is not None:
        changed["learning_rates"] = (arguments.peak_rate,)
    schedule = dataclasses.replace(schedule, **changed)
    if arguments.steps is not None:
        schedule = schedule.scaled(arguments.steps)
    weight = arguments.luring_weight
    weight = recipe.luring_weight if weight is None else weight
    held = arguments.validation_split
    if held is None:
        # Of one look nothing can be picked.
        picks = schedule.steps > arguments.stage or arguments.start is not None
        authors = arguments.schedule == "authors" and variant != "auto"
        held = recipe.validation_split if authors and picks else 0.0
    options: dict[str, Any] = {
        "width": arguments.width,
        **_moves(arguments),
        "validation_split": held,
        "stage": arguments.stage,
    }
    settings = {
        **dataclasses.asdict(schedule),
        **options,
        "target_sha256": weights_sha256(target),
    }
    if variant == "luring":
        settings["loss"] = arguments.loss
        if arguments.loss == "luring":
            settings["luring_weight"] = weight
    if arguments.start is not None:
        start = options["start"] = load_model(arguments.start, "--start")
        lure = make_lure(variant, arguments.dataset, width=arguments.width)
        check_start(start, variant, target, lure)
        settings["start_sha256"] = weights_sha256(start)

    def run(backup: Backup) -> tuple[keras.Model, dict[str, Any]]:
        model, picked = train_variant(
            variant,
            target,
            data,
            schedule,
            output="logits",
            loss=arguments.loss,
            luring_weight=weight,
            seed=arguments.seed,
            backup=backup,
            **options,
        )
        if picked is None:
            return model, {}
        return model, {"picked_step": picked.step, "validation_score": picked.score}

    return settings, run


def _moves(arguments: Flags) -> dict[str, Any]:
    """How far images are turned and shifted: the authors', but for what is given."""
    recipe = VICTIM_RECIPES[arguments.dataset]
    authors = {"rotation": recipe.rotation, "shift": recipe.shift}
    return {**authors, **given(arguments, *authors)}
