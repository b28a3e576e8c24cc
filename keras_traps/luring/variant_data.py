"""What the ways to make M∘P are trained on, and what is right for each."""

import keras
import tensorflow as tf

from keras_traps._checks import IntArray
from keras_traps.datasets import Dataset
from keras_traps.luring.answers import frozen_answers
from keras_traps.luring.augmentation import Augmentation, augment
from keras_traps.luring.batches import batch_order, batches, hold
from keras_traps.luring.schedules import CosineSchedule, Schedule, Variant
from keras_traps.luring.training import MakeData
from keras_traps.models.inference import predict
from keras_traps.models.outputs import Output


def variant_data(
    variant: Variant,
    target: keras.Model,
    data: Dataset,
    schedule: Schedule | CosineSchedule,
    *,
    output: Output,
    augmentation: Augmentation,
    seed: int,
) -> MakeData:
    """Returns what makes the batches of a training.

    Args:
        variant: What is trained.
        target: M. Where no image is moved, `"ce"` and `"luring"` get its answers, each
            asked for once.
        data: The images to train on. Only `"stack"` gets their labels.
        schedule: How many steps there are, and of how many images.
        output: What M returns.
        augmentation: How far images are moved.
        seed: Of the order of images, and of their moves.

    Returns:
        A function from a first step and the one after the last to their batches, each
        by the number of its step.
    """
    order = batch_order(len(data), schedule.batch_size, schedule.steps, seed=seed)
    images = hold(data.images)
    if variant in ("ce", "luring") and not augmentation:
        answers = hold(frozen_answers(target, data.images, output=output)._asdict())
        return lambda first, last: batches(images, answers, order=order[first:last])
    labels = hold(data.labels)

    def make(first: int, last: int) -> tf.data.Dataset:
        labelled = batches(images, labels, order=order[first:last])
        moved = augment(labelled, augmentation, seed=seed, first=first)
        if variant == "stack":
            return moved
        if variant == "auto":
            return moved.map(lambda images, _: (images, images))
        return moved.map(lambda images, _: images)

    return make


def right_answers(variant: Variant, target: keras.Model, data: Dataset) -> IntArray:
    """Returns what M∘P should answer.

    Args:
        variant: What is trained.
        target: M.
        data: The images.

    Returns:
        `(images,)`: the labels for `"stack"`, M's answers for the others.
    """
    if variant == "stack":
        return data.labels
    return predict(target, data.images).argmax(axis=1)
