"""The training of classifiers: on one device, on several, or on several machines."""

import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from keras_traps._checks import check_count, check_flag, check_number, check_positive
from keras_traps.datasets import Dataset
from keras_traps.models.inference import inner_layers, predict
from keras_traps.models.outputs import output_of

# Of Madry's attack: how many steps there are, and how much further than the radius they
# reach together.
_PGD_STEPS, _LONG_WAY = 10, 2.5

Optimizer = Literal["adam", "sgd"]

StrategyName = Literal["none", "mirrored", "multiworker"]
"""`"mirrored"`: all GPUs of this machine, or all logical CPUs where it has none.

`"multiworker"`: the machines that the environment variable `TF_CONFIG` lists, where
the same script is started on each.
"""


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
    adversarial_eps: float | None = None,
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
        augment: What changes images for training alone, such as Keras' random layers
            or a `keras.Sequential` of them; images in [0, 1] to images. It is no part
            of `model` afterwards. Its layers go on with their own random numbers: for
            the same training make them anew, with seeds that differ, or they draw
            alike. Defaults to `None`.
        adversarial_eps: The L-infinity radius, below 1, in which each training image
            is replaced by an adversarial one of the model as it stands: ten steps of
            PGD from a random start (Madry et al., Towards Deep Learning Models
            Resistant to Adversarial Attacks, 2018). It grows from 0 in the first half
            of the steps. Eleven times the price. Defaults to `None`: the images as
            they are.
        validation_split: The share of images, chosen at random, that is only
            evaluated, at least 0 and below 1. Defaults to `0.1`.
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
            images or has another number of classes, it returns probabilities, or
            adversarial images are to be made on several machines.
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_positive("learning_rate", learning_rate)
    if optimizer not in get_args(Optimizer):
        raise _invalid("optimizer", "'adam' or 'sgd'", optimizer)
    check_number(weight_decay, name="weight_decay", at_least=0.0)
    check_flag("falling", falling)
    check_number(validation_split, name="validation_split", at_least=0.0, below=1.0)
    check_count("seed", seed, at_least=0)
    on_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if adversarial_eps is not None:
        name = "adversarial_eps"
        check_number(adversarial_eps, name=name, above=0.0, below=1.0)
        if on_workers:
            raise _invalid(name, "`None` on several machines", adversarial_eps)
    _check_model(model, dataset_train)
    # At least one image to learn from.
    kept = max(1, math.floor(len(dataset_train) * (1 - validation_split)))
    keras.utils.set_random_seed(seed)
    data, held = hold_out(dataset_train, len(dataset_train) - kept, seed=seed)
    rate: float | keras.optimizers.schedules.LearningRateSchedule = learning_rate
    if falling:
        # Of an epoch's last batch several machines leave out what does not fill it.
        steps = kept // batch_size if on_workers else math.ceil(kept / batch_size)
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    scope = contextlib.nullcontext if strategy is None else strategy.scope
    settings = {"epochs": epochs, "batch_size": batch_size, "verbose": verbose}
    with scope():
        if adversarial_eps is not None:
            # With the whole radius from the start a network may learn nothing at all.
            growing = epochs * math.ceil(kept / batch_size) / 2
            learner = _Adversarial(model, augment, adversarial_eps, growing, seed)
        else:
            learner = model if augment is None else _behind(augment, model)
        if optimizer == "adam":
            steps_by = keras.optimizers.Adam(rate, weight_decay=weight_decay or None)
        else:
            steps_by = keras.optimizers.SGD(
                rate, momentum=0.9, nesterov=True, weight_decay=weight_decay or None
            )
        compile_classifier(learner, steps_by)
    if on_workers:
        history = fit_on_workers(learner, data, held, strategy, seed=seed, **settings)
    else:
        validation = (held.images, held.labels) if held else None
        history = learner.fit(
            data.images, data.labels, validation_data=validation, **settings
        )
    if learner is not model:
        with scope():
            # Its loss is scaled already where that is called for.
            compile_classifier(model, learner.optimizer, auto_scale_loss=False)
    return history


def hold_out(data: Dataset, count: int, *, seed: int) -> tuple[Dataset, Dataset | None]:
    """Puts some images aside, chosen at random; returns the others and these."""
    # Keras would keep the last images, which may all be of one class.
    shuffled = data.take(len(data), seed=seed)
    if count == 0:
        return shuffled, None
    pixels, labels = shuffled.pixels[-count:], shuffled.labels[-count:]
    held = dataclasses.replace(shuffled, pixels=pixels, labels=labels)
    return shuffled.take(len(data) - count), held


def compile_classifier(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, **settings: bool
) -> None:
    """Compiles a classifier for cross-entropy from its logits."""
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # XLA's convolutions are slow on a CPU.
        jit_compile=False,
        **settings,
    )


def scaling_optimizer(
    optimizer: str | keras.optimizers.Optimizer, parts: Iterable[keras.layers.Layer]
) -> str | keras.optimizers.Optimizer:
    """Lets an optimizer scale its loss where small gradients would round to 0."""
    layers = (layer for part in parts for layer in (part, *inner_layers(part)))
    scaling = keras.optimizers.LossScaleOptimizer
    half = any(layer.compute_dtype == "float16" for layer in layers)
    if not half or isinstance(optimizer, scaling):
        return optimizer
    return scaling(keras.optimizers.get(optimizer))


def save_model(model: keras.Model, path: Path) -> None:
    """Saves a model whole or not at all: beside its place, then renamed."""
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        model.save(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def make_strategy(name: StrategyName) -> tf.distribute.Strategy | None:
    """Makes what a model is built and trained under."""
    match name:
        case "none":
            return None
        case "mirrored":
            kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
            devices = [device.name for device in tf.config.list_logical_devices(kind)]
            return tf.distribute.MirroredStrategy(devices)
        case "multiworker":
            return tf.distribute.MultiWorkerMirroredStrategy()
    raise _invalid("name", "'none', 'mirrored' or 'multiworker'", name)


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Says whether this process is the one that saves the model."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or resolver.task_type is None:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id in (None, 0)


def fit_on_workers(
    model: keras.Model,
    data: Dataset,
    validation: Dataset | None,
    strategy: tf.distribute.Strategy,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    verbose: int,
) -> keras.callbacks.History:
    """Does what `model.fit` does, which Keras 3 cannot do on several machines.

    What does not fill the last batch of an epoch is left out.
    """
    if len(data) < batch_size:
        wanted = f"at most the number of training images, {len(data)}"
        raise _invalid("batch_size", wanted, batch_size)
    history = keras.callbacks.History()
    history.set_model(model)
    history.on_train_begin()
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
    step = _step(model, strategy)
    draw = np.random.default_rng(seed)
    options = tf.data.Options()
    # Each machine takes its share of every batch; there are no files to share out.
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    for epoch in range(epochs):
        order = draw.permutation(len(data))
        batches = tf.data.Dataset.from_tensor_slices(
            (data.images[order], data.labels[order])
        ).batch(batch_size, drop_remainder=True)
        batches = strategy.experimental_distribute_dataset(
            batches.with_options(options)
        )
        seen = [step(images, labels) for images, labels in batches]
        logs = dict(zip(("loss", "accuracy"), np.mean(seen, axis=0), strict=True))
        if validation is not None:
            answers = predict(model, validation.images).argmax(axis=1)
            logs["val_accuracy"] = (answers == validation.labels).mean()
        history.on_epoch_end(epoch, {name: float(logs[name]) for name in logs})
        if verbose and is_chief(strategy):
            told = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
            sys.stdout.write(f"Epoch {epoch + 1}/{epochs}: {told}\n")
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


class _Adversarial(keras.Model):
    """A model that learns from what fools it."""

    def __init__(
        self,
        model: keras.Model,
        augment: keras.Layer | None,
        eps: float,
        growing: float,
        seed: int,
    ) -> None:
        super().__init__(name="adversarial", dtype=model.dtype_policy)
        self.model = model
        self.augment = augment
        self.eps = eps
        self.growing = growing
        self.draws = keras.random.SeedGenerator(seed)

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.model(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        images, labels = data
        if self.augment is not None:
            images = self.augment(images, training=True)
        moved: dict[str, tf.Tensor] = super().train_step(
            (self.fooling(images, labels), labels)
        )
        return moved

    def fooling(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns what PGD finds in the ball around each image."""
        done = tf.cast(self.optimizer.iterations, tf.float32) + 1
        eps = self.eps * tf.minimum(1.0, done / self.growing)
        step = _LONG_WAY * eps / _PGD_STEPS
        start = keras.random.uniform(tf.shape(images), -eps, eps, seed=self.draws)

        def climb(number: tf.Tensor, moved: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(moved)
                logits = tf.cast(self.model(moved, training=False), tf.float32)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            moved += step * tf.sign(tape.gradient(loss, moved))
            return number + 1, inside(moved)

        def inside(moved: tf.Tensor) -> tf.Tensor:
            return tf.clip_by_value(
                images + tf.clip_by_value(moved - images, -eps, eps), 0.0, 1.0
            )

        state = (tf.constant(0), inside(images + start))
        _, found = tf.while_loop(lambda i, _: i < _PGD_STEPS, climb, state)
        return tf.stop_gradient(found)


def _step(
    model: keras.Model, strategy: tf.distribute.Strategy
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    variables = [variable.value for variable in model.trainable_variables]
    # The optimizer sums the gradients of all replicas.
    share = 1.0 / strategy.num_replicas_in_sync

    def replica(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            # In half precision the logarithm of a small probability is lost.
            logits = tf.cast(model(images, training=True), tf.float32)
            entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            # What regularizes the weights is the same on all replicas, of which each
            # adds its share: together they count it once.
            loss = tf.reduce_mean(entropies)
            for added in model.losses:
                loss += tf.reduce_sum(tf.cast(added, tf.float32))
            scaled = model.optimizer.scale_loss(loss * share)
        gradients = tape.gradient(scaled, variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        right = tf.equal(tf.argmax(logits, axis=-1), labels)
        return tf.stack([loss, tf.reduce_mean(tf.cast(right, loss.dtype))])

    @tf.function(autograph=False)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        results = strategy.run(replica, (images, labels))
        return strategy.reduce("MEAN", results, axis=None)

    return step


def _check_model(model: keras.Model, dataset: Dataset) -> None:
    images = dataset.take(min(32, len(dataset))).images
    found = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    wanted = images.shape[1:], (dataset.num_classes,)
    if found != wanted:
        told = f"a model from images {wanted[0]} to {dataset.num_classes} classes"
        raise _invalid("model", told, f"from {found[0]} to {found[1]}")
    if output_of(np.asarray(model(images, training=False))) == "probabilities":
        raise _invalid("model", "a model that returns logits", "probabilities")


def _invalid(name: str, expected: str, received: object) -> ValueError:
    return ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. "
        f"Received: {name}={received!r}"
    )
