"""Training of the classifier M that luring protects, as the authors train theirs."""

import io
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_traps._files import write_atomically
from keras_traps.datasets import Dataset
from keras_traps.luring.answers import batch_order, batches
from keras_traps.luring.augmentation import Augmentation, augment
from keras_traps.luring.schedules import Schedule
from keras_traps.luring.training import Backup, MakeData, train_in_stages
from keras_traps.models.inference import predict
from keras_traps.models.luring_victims import VictimRecipe

_BEST = "best.npz"


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
    """
    shuffled = data.take(len(data), seed=seed)
    kept = len(data) - int(len(data) * recipe.validation_split)
    epoch = max(1, kept // recipe.batch_size)
    schedule = Schedule(
        epoch * recipe.epochs,
        recipe.batch_size,
        recipe.learning_rates,
        tuple(epoch * boundary for boundary in recipe.boundaries),
    )
    schedule = schedule if steps is None else schedule.scaled(steps)
    order = batch_order(kept, schedule.batch_size, schedule.steps, seed=seed)
    model.compile(
        schedule.optimizer(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    images, labels = shuffled.images, shuffled.labels
    best = _Best(model, images[kept:], labels[kept:], backup)
    train_in_stages(
        model,
        _make_data(images[:kept], labels[:kept], order, recipe, seed),
        steps=schedule.steps,
        stage=epoch,
        backup=backup,
        after_stage=best.keep,
        verbose=verbose,
    )
    return best.restore()


def _make_data(
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    order: np.ndarray[Any, Any],
    recipe: VictimRecipe,
    seed: int,
) -> MakeData:
    augmentation = Augmentation(recipe.rotation, recipe.shift)

    def make(first: int, last: int) -> tf.data.Dataset:
        plain = batches(images, labels, order=order[first:last])
        return augment(plain, augmentation, seed=seed, first=first)

    return make


class _Best:
    """The weights of the epoch with the best validation accuracy."""

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray[Any, Any],
        labels: np.ndarray[Any, Any],
        backup: Backup | None,
    ) -> None:
        self._model, self._images, self._labels = model, images, labels
        self._path = None if backup is None else backup.path(_BEST)
        self._score, self._weights = -1.0, model.get_weights()
        if self._path is not None and self._path.exists():
            with np.load(self._path) as found:
                self._score = float(found["score"])
                self._weights = [found[f"w{i}"] for i in range(len(self._weights))]

    def keep(self, _: int) -> None:
        answers = predict(self._model, self._images).argmax(axis=1)
        score = float((answers == self._labels).mean())
        if score <= self._score:
            return
        self._score, self._weights = score, self._model.get_weights()
        if self._path is not None:
            buffer = io.BytesIO()
            named = {f"w{i}": weight for i, weight in enumerate(self._weights)}
            np.savez(buffer, allow_pickle=False, score=np.array(score), **named)
            write_atomically(self._path, buffer.getvalue())

    def restore(self) -> float:
        self._model.set_weights(self._weights)
        return self._score
