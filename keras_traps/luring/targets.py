"""Training of the classifier M that luring protects, as the authors train theirs."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_traps.datasets import Dataset
from keras_traps.luring.augmentation import Augmentation, augment
from keras_traps.luring.batches import batch_order, batches, hold
from keras_traps.luring.best import Best, hold_out
from keras_traps.luring.schedules import Schedule
from keras_traps.luring.training import Backup, MakeData, train_in_stages
from keras_traps.models.luring_victims import VictimRecipe


def train_target(
    model: keras.Model,
    data: Dataset,
    recipe: VictimRecipe,
    *,
    steps: int | None = None,
    seed: int = 0,
    backup: Backup | None = None,
    verbose: bool = True,
) -> float:
    """Trains a classifier in place, and leaves it at its best epoch.

    Args:
        model: From images in [0, 1] to logits; built under the same seed.
        data: The training images. A share of them, chosen at random, only says which
            epoch is the best.
        recipe: The authors' settings.
        steps: How many steps in place of the recipe's epochs; its boundaries are
            scaled. Defaults to the recipe's.
        seed: Of the order of images, the augmentation and the validation images.
            Defaults to `0`.
        backup: Where its state is saved. Defaults to nowhere.
        verbose: Whether to show a bar. Defaults to `True`.

    Returns:
        The accuracy on the validation images, at its best.

    Raises:
        ValueError: If the recipe holds out no image, or all.
    """
    data, held = hold_out(data, recipe.validation_split, seed=seed)
    epoch = max(1, len(data) // recipe.batch_size)
    schedule = Schedule(
        epoch * recipe.epochs,
        recipe.batch_size,
        recipe.learning_rates,
        tuple(epoch * boundary for boundary in recipe.boundaries),
    )
    schedule = schedule if steps is None else schedule.scaled(steps)
    order = batch_order(len(data), schedule.batch_size, schedule.steps, seed=seed)
    model.compile(
        schedule.optimizer(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    best = Best(model, held.images, held.labels, backup)
    train_in_stages(
        model,
        _make_data(data.images, data.labels, order, recipe, seed),
        steps=schedule.steps,
        stage=epoch,
        backup=backup,
        after_stage=best.keep,
        verbose=verbose,
    )
    return best.restore().score


def _make_data(
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    order: np.ndarray[Any, Any],
    recipe: VictimRecipe,
    seed: int,
) -> MakeData:
    augmentation = Augmentation(recipe.rotation, recipe.shift)
    held = hold((images, labels))

    def make(first: int, last: int) -> tf.data.Dataset:
        plain = batches(*held, order=order[first:last])
        return augment(plain, augmentation, seed=seed, first=first)

    return make
