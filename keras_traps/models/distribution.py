"""Training on several devices or machines."""

from collections.abc import Iterator
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from keras_traps.datasets import Dataset
from keras_traps.models.inference import predict

StrategyName = Literal["none", "mirrored", "multiworker"]
"""`"mirrored"`: all GPUs of this machine, or all logical CPUs where it has none.

`"multiworker"`: the machines that the environment variable `TF_CONFIG` lists, where
the same script is started on each.
"""


def make_strategy(name: StrategyName) -> tf.distribute.Strategy | None:
    """Makes what a model is built and trained under.

    Args:
        name: Which; call it before anything runs on a device.

    Returns:
        The strategy, or `None` for `"none"`.

    Raises:
        ValueError: If the name is unknown.
    """
    match name:
        case "none":
            return None
        case "mirrored":
            kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
            devices = [device.name for device in tf.config.list_logical_devices(kind)]
            return tf.distribute.MirroredStrategy(devices)
        case "multiworker":
            return tf.distribute.MultiWorkerMirroredStrategy()
    raise ValueError(
        "Invalid value for argument `name`. Expected 'none', 'mirrored' or "
        f"'multiworker'. Received: name={name!r}"
    )


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Says whether this process is the one that saves the model.

    Args:
        strategy: What the model is trained under.

    Returns:
        `True` but on all machines of several save one: the task `"chief"`, or the first
        `"worker"` where no task has that name.
    """
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

    Its trainer reduces the first batch by a call that fails there.

    Args:
        model: Compiled with an optimizer, built and compiled in the strategy's scope.
        data: The images to learn from.
        validation: Images that are only evaluated, or `None`.
        strategy: Of several machines.
        epochs: How often each image is seen.
        batch_size: Images per step, of all machines together. What does not fill the
            last batch of an epoch is left out.
        seed: Of the order of images.
        verbose: 0 for silence; else the chief prints a line per epoch.

    Returns:
        The history, as `fit` gives it.

    Raises:
        ValueError: If there are fewer images than one batch.
    """
    if len(data) < batch_size:
        raise ValueError(
            "Invalid value for argument `batch_size`. Expected at most the number of "
            f"training images, {len(data)}. Received: batch_size={batch_size}"
        )
    history = keras.callbacks.History()
    history.set_model(model)
    history.on_train_begin()
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
    step = _step(model, strategy)
    for epoch, batches in enumerate(_epochs(data, strategy, epochs, batch_size, seed)):
        seen = [step(images, labels) for images, labels in batches]
        logs = dict(zip(("loss", "accuracy"), np.mean(seen, axis=0), strict=True))
        if validation is not None:
            answers = predict(model, validation.images).argmax(axis=1)
            logs["val_accuracy"] = (answers == validation.labels).mean()
        history.on_epoch_end(epoch, {name: float(logs[name]) for name in logs})
        if verbose and is_chief(strategy):
            told = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
            print(  # noqa: T201 - what fit prints itself
                f"Epoch {epoch + 1}/{epochs}: {told}"
            )
    return history


def _epochs(
    data: Dataset,
    strategy: tf.distribute.Strategy,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Iterator[tf.distribute.DistributedDataset]:
    draw = np.random.default_rng(seed)
    options = tf.data.Options()
    # Each machine takes its share of every batch; there are no files to share out.
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    for _ in range(epochs):
        order = draw.permutation(len(data))
        batches = tf.data.Dataset.from_tensor_slices(
            (data.images[order], data.labels[order])
        ).batch(batch_size, drop_remainder=True)
        yield strategy.experimental_distribute_dataset(batches.with_options(options))


def _step(model: keras.Model, strategy: tf.distribute.Strategy):  # type: ignore[no-untyped-def]
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
