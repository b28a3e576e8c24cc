"""What a training of M, or of a network before it, depends on, and how it is run."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from absl import app, flags

from keras_traps import datasets
from keras_traps._luring.folder import Folder
from keras_traps.luring.augmentation import Augmentation
from keras_traps.luring.best import Picked
from keras_traps.luring.schedules import (
    LURE_AUGMENTATIONS,
    LURE_VALIDATION,
    LURING_WEIGHTS,
    SHORT_SCHEDULES,
    CosineSchedule,
    Schedule,
    authors_schedule,
)
from keras_traps.luring.targets import train_target
from keras_traps.luring.training import Backup
from keras_traps.luring.variants import (
    check_start,
    make_lure,
    train_variant,
    untrained,
)
from keras_traps.models import cifar10_vgg, digits_cnn, madry_mnist_cnn, svhn_vgg
from keras_traps.models.luring_victims import VICTIM_RECIPES, VictimRecipe
from keras_traps.provenance import weights_sha256

_BUILD: dict[str, Callable[..., keras.Model]] = {
    "mnist": madry_mnist_cnn,
    "svhn_cropped": svhn_vgg,
    "cifar10": cifar10_vgg,
    # To try it with; it has one width.
    "digits": lambda width: digits_cnn(),  # noqa: ARG005
}
_RECIPES = {**VICTIM_RECIPES, "digits": VictimRecipe(20, 32, (2e-3,))}

Splits = dict[str, datasets.Dataset]
"""The data set, by split."""

Plan = tuple[dict[str, Any], Callable[[Backup], tuple[keras.Model, dict[str, Any]]]]
"""What a training depends on; and what trains the model, and tells more of it."""


def plan_whole(
    values: flags.FlagValues, folder: Folder, variant: str, data: Splits
) -> Plan:
    """Plans the training of M, or of what an attacker takes for it.

    Args:
        values: The parsed flags.
        folder: Where the models are.
        variant: `"target"` or `"surrogate"`.
        data: The data set's splits.

    Returns:
        The plan.
    """
    seed = values.seed + (variant == "surrogate")
    recipe = _RECIPES[values.dataset]
    moved = _augmentation(values, Augmentation(recipe.rotation, recipe.shift))
    recipe = dataclasses.replace(recipe, **dataclasses.asdict(moved))
    settings: dict[str, Any] = {"steps": values.steps, **dataclasses.asdict(moved)}
    if variant == "surrogate":
        settings["own_seed"] = seed
    else:
        settings["width"] = values.width
    run = functools.partial(_train_whole, values, folder, variant, data, recipe, seed)
    return settings, run


def _train_whole(
    values: flags.FlagValues,
    folder: Folder,
    variant: str,
    data: Splits,
    recipe: VictimRecipe,
    seed: int,
    backup: Backup,
) -> tuple[keras.Model, dict[str, Any]]:
    keras.utils.set_random_seed(seed)
    if variant == "surrogate":
        model = untrained(folder.target())
    else:
        model = _BUILD[values.dataset](width=values.width)
    score = train_target(
        model,
        data["train"],
        recipe,
        steps=values.steps,
        seed=seed,
        backup=backup,
    )
    return model, {"validation_accuracy": score}


def plan_variant(
    values: flags.FlagValues, folder: Folder, variant: Any, data: Splits
) -> Plan:
    """Plans the training of a network before M.

    Args:
        values: The parsed flags.
        folder: Where the models are.
        variant: Which of the ways to make M∘P.
        data: The data set's splits.

    Returns:
        The plan.

    Raises:
        app.UsageError: If M is not there, or what P begins with.
        ValueError: If what P begins with has other weights than P, or images are moved
            impossibly far.
    """
    target = folder.target()
    schedule = _schedule(values, variant)
    weight = values.luring_weight
    if weight is None:
        weight = LURING_WEIGHTS[values.dataset]
    augmentation = _augmentation(values, LURE_AUGMENTATIONS[values.dataset])
    held = _held_out(values, variant, schedule.steps)
    settings = {
        **dataclasses.asdict(schedule),
        **dataclasses.asdict(augmentation),
        "validation_split": held,
        "width": values.width,
        "stage": values.stage,
        "target_sha256": weights_sha256(target),
    }
    if variant == "luring":
        settings["loss"] = values.loss
        if values.loss == "luring":
            settings["luring_weight"] = weight
    start = _load_start(values)
    if start is not None:
        lure = make_lure(variant, values.dataset, width=values.width)
        check_start(start, variant, target, lure)
        settings["start_sha256"] = weights_sha256(start)
    run = functools.partial(
        train_variant,
        variant,
        target,
        data["train"],
        schedule,
        output="logits",
        width=values.width,
        loss=values.loss,
        luring_weight=weight,
        augmentation=augmentation,
        validation_split=held,
        start=start,
        seed=values.seed,
        stage=values.stage,
    )

    def train(backup: Backup) -> tuple[keras.Model, dict[str, Any]]:
        found: dict[str, Any] = {}

        def tell(picked: Picked) -> None:
            found.update(picked_step=picked.step, validation_score=picked.score)

        return run(backup=backup, on_pick=tell), found

    return settings, train


def _schedule(values: flags.FlagValues, variant: Any) -> Schedule | CosineSchedule:
    schedule: Schedule | CosineSchedule
    if values.schedule == "authors":
        schedule = authors_schedule(variant, values.dataset)
    else:
        schedule = SHORT_SCHEDULES[values.dataset]
        if values.peak_rate is not None:
            schedule = dataclasses.replace(schedule, peak_rate=values.peak_rate)
    if values.batch_size is not None:
        schedule = dataclasses.replace(schedule, batch_size=values.batch_size)
    if values.steps is not None:
        schedule = schedule.scaled(values.steps)
    return schedule


def _augmentation(values: flags.FlagValues, authors: Augmentation) -> Augmentation:
    given = {
        name: values[name].value
        for name in ("rotation", "shift")
        if values[name].value is not None
    }
    return dataclasses.replace(authors, **given)


def _held_out(values: flags.FlagValues, variant: str, steps: int) -> float:
    if variant == "auto":
        return 0.0
    # Of one look nothing can be picked.
    one = steps <= values.stage and values.start is None
    if values.validation_split is None:
        picks = values.schedule == "authors" and not one
        return LURE_VALIDATION[values.dataset] if picks else 0.0
    if values.validation_split and one:
        raise app.UsageError(
            f"--validation_split picks from what is looked at after every --stage: of "
            f"{steps} steps and --stage={values.stage} there is one only."
        )
    return float(values.validation_split)


def _load_start(values: flags.FlagValues) -> keras.Model | None:
    if values.start is None:
        return None
    path = Path(values.start).expanduser()
    if not path.is_file():
        raise app.UsageError(f"There is no {path}: --start names a trained P.")
    return keras.saving.load_model(path, compile=False)
