"""Plain training of a classifier that returns logits."""

import contextlib
import dataclasses
import math
from typing import Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from keras_traps.datasets import Dataset
from keras_traps.models.distribution import fit_on_workers

Optimizer = Literal["adam", "sgd"]

_MOMENTUM = 0.9
_CHECKED_IMAGES = 32


def train(
    model: keras.Model,
    dataset_train: Dataset,
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    optimizer: Optimizer = "adam",
    weight_decay: float = 0.0,
    falling: bool = False,
    augment: keras.Layer | None = None,
    validation_split: float = 0.1,
    seed: int = 0,
    verbose: int = 0,
    strategy: tf.distribute.Strategy | None = None,
) -> keras.callbacks.History:
    """Trains a classifier with cross-entropy from its logits.

    The same seed gives the same training. A model draws its first weights and its
    dropout seeds when it is built, so call `keras.utils.set_random_seed` before that
    too. Global seeds of Python, NumPy and TensorFlow are set.

    Args:
        model: From images in [0, 1] to logits `(batch, num_classes)`. It is compiled
            and trained in place, on from what it has learned before.
        dataset_train: The images and labels to learn from.
        epochs: How often each image is seen.
        batch_size: Images per step. Defaults to `64`.
        learning_rate: Constant, unless `falling`. Defaults to `1e-3`.
        optimizer: `"adam"`, or `"sgd"` with a Nesterov momentum of 0.9. Defaults to
            `"adam"`.
        weight_decay: Decoupled: each step shrinks the weights by the factor
            `1 - learning_rate * weight_decay`. Defaults to `0.0`.
        falling: Whether the learning rate falls to 0 along half a cosine. Defaults to
            `False`.
        augment: What changes images for training alone, such as
            `keras_traps.layers.RandomNoise`, Keras' own random layers, or a
            `keras.Sequential` of them; images in [0, 1] to images. It is no part of
            `model` afterwards. Its layers go on with their own random numbers: for the
            same training make them anew, with seeds that differ, or they draw alike.
            Defaults to `None`.
        validation_split: The share of images, chosen at random, that is only
            evaluated. Defaults to `0.1`.
        seed: Of the validation images, the order of images and the like. Defaults to
            `0`.
        verbose: `0` silent, `1` a progress bar, `2` a line per epoch. Defaults to
            `0`.
        strategy: What the model was built under, for several devices or machines.
            Defaults to `None`.

    Returns:
        The history: `loss`, `accuracy`, and with `val_` before them.

    Raises:
        ValueError: If an argument is out of its range, the model does not take these
            images or has another number of classes, or it returns probabilities.
    """
    _check_settings(
        epochs, batch_size, learning_rate, optimizer, weight_decay, validation_split
    )
    _check_model(model, dataset_train)
    keras.utils.set_random_seed(seed)
    # Keras keeps the last images for validation, which may all be of one class.
    shuffled = dataset_train.take(len(dataset_train), seed=seed)
    kept = math.floor(len(shuffled) * (1 - validation_split))
    on_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    rate: float | keras.optimizers.schedules.LearningRateSchedule = learning_rate
    if falling:
        # Of an epoch's last batch several machines leave out what does not fill it.
        steps = kept // batch_size if on_workers else math.ceil(kept / batch_size)
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    with strategy.scope() if strategy else contextlib.nullcontext():
        learner = model if augment is None else _behind(augment, model)
        _compile(learner, _optimizer(optimizer, rate, weight_decay))
    if on_workers:
        history = fit_on_workers(
            learner,
            _part(shuffled, slice(kept)),
            _part(shuffled, slice(kept, None)) if kept < len(shuffled) else None,
            strategy,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
    else:
        history = learner.fit(
            shuffled.images,
            shuffled.labels,
            batch_size=batch_size,
            epochs=epochs,
            validation_split=validation_split,
            verbose=verbose,
        )
    if learner is not model:
        with strategy.scope() if strategy else contextlib.nullcontext():
            # Its loss is scaled already where that is called for.
            _compile(model, learner.optimizer, auto_scale_loss=False)
    return history


class _Augmented(keras.Layer):
    """Changes images, and gives them to a model that may have any name."""

    def __init__(self, augment: keras.Layer, model: keras.Model) -> None:
        super().__init__(name="augmented", autocast=False)
        self.augment = augment
        self.model = model

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        changed = self.augment(images, training=training)
        return self.model(changed, training=training)


def _behind(augment: keras.Layer, model: keras.Model) -> keras.Model:
    inputs = keras.Input(model.input_shape[1:])
    learner = keras.Model(inputs, _Augmented(augment, model)(inputs))
    # It says whether the loss is scaled.
    learner.dtype_policy = model.dtype_policy
    return learner


def _compile(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, **settings: bool
) -> None:
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        **settings,
    )


def _part(data: Dataset, rows: slice) -> Dataset:
    return dataclasses.replace(data, pixels=data.pixels[rows], labels=data.labels[rows])


def _optimizer(
    name: Optimizer,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    weight_decay: float,
) -> keras.optimizers.Optimizer:
    decay = weight_decay or None
    if name == "adam":
        return keras.optimizers.Adam(learning_rate, weight_decay=decay)
    return keras.optimizers.SGD(
        learning_rate, momentum=_MOMENTUM, nesterov=True, weight_decay=decay
    )


def _check_settings(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    optimizer: str,
    weight_decay: float,
    validation_split: float,
) -> None:
    for name, count in (("epochs", epochs), ("batch_size", batch_size)):
        if count != int(count) or count < 1:
            _fail(name, "a positive integer", count)
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        _fail("learning_rate", "a positive float", learning_rate)
    if optimizer not in get_args(Optimizer):
        _fail("optimizer", "'adam' or 'sgd'", optimizer)
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        _fail("weight_decay", "a float from 0", weight_decay)
    if not 0 <= validation_split < 1:
        _fail("validation_split", "a float from 0 to below 1", validation_split)


def _check_model(model: keras.Model, dataset: Dataset) -> None:
    images = dataset.take(min(_CHECKED_IMAGES, len(dataset))).images
    if tuple(model.input_shape[1:]) != images.shape[1:]:
        _fail("model", f"a model of images {images.shape[1:]}", model.input_shape)
    if tuple(model.output_shape[1:]) != (dataset.num_classes,):
        _fail("model", f"a model of {dataset.num_classes} classes", model.output_shape)
    outputs = np.asarray(model(images, training=False))
    if (outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3):
        _fail("model", "a model that returns logits", "probabilities")


def _fail(name: str, expected: str, received: object) -> None:
    raise ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. "
        f"Received: {name}={received!r}"
    )
