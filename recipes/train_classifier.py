"""Trains a classifier and saves it as a `.keras` file.

Example:
    python recipes/train_classifier.py --dataset=digits --output=runs/digits.keras

    # Goes on from a trained one, so that random noise fools it less:
    python recipes/train_classifier.py --dataset=cifar10 --data_dir=data \
        --model=deepsec_cifar10.npz --noise=0.2 --augment --falling --epochs=8 \
        --batch_size=64 --output=runs/cifar10_noise.keras
"""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_traps import datasets
from keras_traps._classifier_files import load_classifier
from keras_traps.layers import RandomNoise
from keras_traps.models import cifar10_resnet20, digits_cnn, mnist_cnn, train
from keras_traps.models.distribution import StrategyName, is_chief, make_strategy
from keras_traps.models.inference import predict
from keras_traps.models.training import Optimizer

_SMOKE_IMAGES = 200
_SHIFT = 0.125


@dataclasses.dataclass(frozen=True)
class _Recipe:
    build: Callable[[], keras.Model]
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0


_RECIPES = {
    "digits": _Recipe(digits_cnn, 20, 32, 2e-3),
    # DEEPSEC's own settings, but for its weight decay, which acts on the gradient.
    "mnist": _Recipe(mnist_cnn, 20, 100, 0.05, "sgd", 1e-6),
    # DEEPSEC trains 200 epochs with falling rates on shifted and flipped images. This
    # is shorter and plainer, and ends less accurate than its published weights.
    "cifar10": _Recipe(cifar10_resnet20, 30, 32, 1e-3),
    "svhn_cropped": _Recipe(cifar10_resnet20, 30, 32, 1e-3),
}


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    flags.DEFINE_enum(
        "dataset",
        "digits",
        list(_RECIPES),
        "The data set to learn from, which also chooses the model where there is no "
        "--model.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "The folder that holds the data set as an .npz archive or as prepared by "
        "tensorflow-datasets. Nothing is downloaded where it is given.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "epochs",
        None,
        "How often each image is seen. The default depends on the data set.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "How many images make a step. The default depends on the data set.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "learning_rate",
        None,
        "The learning rate. The default depends on the data set.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "falling",
        False,
        "Whether the learning rate falls to 0 along half a cosine.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "model",
        None,
        "A classifier to go on from: a .keras file, or a DEEPSEC .npz state dict.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "noise",
        0.0,
        "The largest standard deviation of the Gaussian noise on training images, on "
        "the pixel scale [0, 1]; 0 adds none.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "augment",
        False,
        "Whether training images are flipped, and shifted by up to an eighth; for "
        "things that look the same in a mirror, not for digits.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "The seed of first weights and of all else that is random.",
        lower_bound=0,
        upper_bound=2**32 - 1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "The .keras file to save the model to. It may be left out with --smoke only.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "overwrite", False, "Whether --output may exist already.", flag_values=values
    )
    flags.DEFINE_enum(
        "strategy",
        "none",
        list(get_args(StrategyName)),
        "What to train on: one device, all of this machine, or the machines that "
        "TF_CONFIG lists, where this script is started on each.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "smoke",
        False,
        "Whether to train for one epoch on a few images only, to try the script.",
        flag_values=values,
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Trains, prints the accuracy on the test images, and saves.

    Args:
        argv: What is left of the command line; anything but the script is an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is trained.
        ValueError: If --model does not take these images, has another number of
            classes, or returns probabilities.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {' '.join(argv[1:])}")
    output = _checked_output(values)
    strategy = make_strategy(values.strategy)
    model = _train(values, strategy)
    if output is not None and is_chief(strategy):
        _save(model, output)
        print(f"Saved to {output}")


def _checked_output(values: flags.FlagValues) -> Path | None:
    if values.output is None:
        if values.smoke:
            return None
        raise app.UsageError("--output is required, except with --smoke.")
    output = Path(values.output).expanduser()
    if output.suffix != ".keras":
        raise app.UsageError(f"--output must end in .keras. Received: {output}")
    if output.exists() and not values.overwrite:
        raise app.UsageError(f"{output} exists. Pass --overwrite to replace it.")
    output.parent.mkdir(parents=True, exist_ok=True)
    return output


def _train(
    values: flags.FlagValues, strategy: tf.distribute.Strategy | None
) -> keras.Model:
    recipe = _RECIPES[values.dataset]
    train_data, test_data = (
        datasets.load(values.dataset, split, values.data_dir)
        for split in ("train", "test")
    )
    epochs = values.epochs or recipe.epochs
    if values.smoke:
        epochs = 1
        train_data, test_data = (
            data.take(min(_SMOKE_IMAGES, len(data))) for data in (train_data, test_data)
        )
    keras.utils.set_random_seed(values.seed)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = (
            recipe.build()
            if values.model is None
            else load_classifier(values.dataset, Path(values.model).expanduser())
        )
        augment = _augmentation(values)
    train(
        model,
        train_data,
        epochs=epochs,
        batch_size=values.batch_size or recipe.batch_size,
        learning_rate=(
            recipe.learning_rate
            if values.learning_rate is None
            else values.learning_rate
        ),
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        falling=values.falling,
        augment=augment,
        seed=values.seed,
        verbose=1 if sys.stdout.isatty() else 2,
        strategy=strategy,
    )
    answers = predict(model, test_data.images).argmax(axis=1)
    accuracy = (answers == test_data.labels).mean()
    print(f"Test accuracy: {accuracy:.2%} of {len(test_data)} images")
    return model


def _augmentation(values: flags.FlagValues) -> keras.Layer | None:
    # Layers of the same seed would draw alike: strong noise where the shift is far.
    flips, shifts, noises = map(
        int, np.random.SeedSequence(values.seed).generate_state(3) >> 1
    )
    steps: list[keras.Layer] = []
    if values.augment:
        steps += [
            keras.layers.RandomFlip("horizontal", seed=flips),
            keras.layers.RandomTranslation(
                _SHIFT, _SHIFT, fill_mode="reflect", seed=shifts
            ),
        ]
    if values.noise:
        steps.append(RandomNoise(values.noise, seed=noises))
    return keras.Sequential(steps) if steps else None


def _save(model: keras.Model, output: Path) -> None:
    """Saves beside and renames, so that `output` is never half written."""
    unfinished = output.with_name(f".{output.stem}-{os.getpid()}.keras")
    try:
        model.save(unfinished)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
