r"""Trains a classifier and saves it as a `.keras` file.

Example:
    python recipes/train.py --dataset=digits --output=runs/digits.keras

    # Goes on from a trained one, so that random noise fools it less:
    python recipes/train.py --dataset=cifar10 --data_dir=data \
        --model=deepsec_cifar10.npz --noise=0.1 --augment --falling --epochs=8 \
        --batch_size=64 --output=runs/cifar10_noise.keras

    # Learns from adversarial images, the plain alternative to any trap:
    python recipes/train.py --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --adversarial_eps=0.3 --epochs=2 --falling \
        --learning_rate=0.01 --output=runs/mnist_adversarial.keras

    # Learns what another model answers, as one does who may only ask it:
    python recipes/train.py --dataset=mnist --data_dir=data --epochs=4 \
        --answers_of=runs/trapped.keras --output=runs/mnist_substitute.keras
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_traps.commands import command_line
from keras_traps.commands.command_line import (
    CommandLineError,
    Flags,
    count,
    given,
    number,
    path,
    refusing,
)

if TYPE_CHECKING:
    import keras

    from keras_traps.datasets import Dataset

_BUILDERS = {
    "digits": "digits_cnn",
    "mnist": "mnist_cnn",
    "cifar10": "cifar10_resnet20",
    "svhn_cropped": "cifar10_resnet20",
}
# DEEPSEC trains 200 epochs with falling rates on shifted and flipped images. This is
# shorter and plainer, and ends less accurate than its published weights.
_PLAIN = {"epochs": 30, "batch_size": 32, "learning_rate": 1e-3}
_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 20, "batch_size": 32, "learning_rate": 2e-3},
    # DEEPSEC's own, but for its weight decay, which acts on the gradient.
    "mnist": {
        "epochs": 20,
        "batch_size": 100,
        "learning_rate": 0.05,
        "optimizer": "sgd",
        "weight_decay": 1e-6,
    },
    "cifar10": _PLAIN,
    "svhn_cropped": _PLAIN,
}
_SMOKE_IMAGES = 200
_SHIFT = 0.125


def _parser() -> command_line.Parser:
    parser = command_line.Parser(__doc__, prog="train.py")
    command_line.add_data(parser, tuple(_BUILDERS))
    whose = "The default depends on the data set."
    parser.flag("epochs", f"How often each image is seen. {whose}", count)
    parser.flag("batch_size", f"How many images make a step. {whose}", count)
    about = f"The learning rate. {whose}"
    parser.flag("learning_rate", about, command_line.positive)
    parser.switch("falling", "Let the learning rate fall to 0 along half a cosine.")
    about = "A classifier to go on from: a .keras file, or a DEEPSEC .npz state dict."
    parser.flag("model", about, command_line.file)
    about = (
        "A model whose answers to the training images take the place of their labels: "
        "a .keras file, such as one of a trapped model, or a DEEPSEC .npz."
    )
    parser.flag("answers_of", about, command_line.file)
    about = (
        "The standard deviation of the Gaussian noise on training images, on the pixel "
        "scale [0, 1]; 0 adds none."
    )
    parser.flag("noise", about, number(at_least=0.0), default=0.0)
    about = (
        "Learn from adversarial images of this L-infinity radius, made by ten steps of "
        "PGD (Madry et al., 2018), at eleven times the price."
    )
    parser.flag("adversarial_eps", about, number(above=0.0, below=1.0))
    about = (
        "Flip training images, and shift them by up to an eighth; for things that look "
        "the same in a mirror, not for digits."
    )
    parser.switch("augment", about)
    about = "The seed of first weights and of all else that is random."
    parser.flag("seed", about, command_line.whole, default=0)
    about = "The .keras file to save the model to; needed but with --smoke."
    parser.flag("output", about, path)
    parser.switch("overwrite", "Replace --output if it exists.")
    about = (
        "What to train on: one device, all of this machine, or the machines that "
        "TF_CONFIG lists, where this script is started on each."
    )
    strategies = ("none", "mirrored", "multiworker")
    parser.flag("strategy", about, default="none", options=strategies)
    parser.switch("smoke", "Train one epoch on a few images only, to try the script.")
    return parser


def main(argv: Sequence[str]) -> None:
    """Trains, prints the accuracy on the test images, and saves."""
    arguments = _parser().parse(argv)
    output: Path | None = arguments.output
    if output is None and not arguments.smoke:
        raise CommandLineError("--output is required, except with --smoke")
    if output is not None:
        if output.suffix != ".keras":
            raise CommandLineError(f"--output has to end in .keras, not as {output}")
        if output.exists() and not arguments.overwrite:
            raise CommandLineError(f"{output} exists: replace it by --overwrite")
        with refusing():
            output.parent.mkdir(parents=True, exist_ok=True)

    import keras

    from keras_traps import models
    from keras_traps.commands import trapping
    from keras_traps.models.forms import check_data
    from keras_traps.models.training import is_chief, make_strategy, save_model

    with refusing():
        strategy = make_strategy(arguments.strategy)
    train, test = trapping.load_data(arguments)
    asked = given(arguments, "epochs", "batch_size", "learning_rate")
    settings = {**_SETTINGS[arguments.dataset], **asked}
    if arguments.smoke:
        settings["epochs"] = 1
        few = min(_SMOKE_IMAGES, len(train), len(test))
        train, test = train.take(few), test.take(few)
    keras.utils.set_random_seed(arguments.seed)
    with strategy.scope() if strategy else contextlib.nullcontext():
        if arguments.model is None:
            model = getattr(models, _BUILDERS[arguments.dataset])()
        else:
            model = trapping.load_classifier(arguments.model, arguments.dataset)
            with refusing():
                check_data(model, test, name="--model")
        augment = _augmentation(arguments)
    if arguments.answers_of is not None:
        train = _answered(train, arguments)
    with refusing():
        models.train(
            model,
            train,
            **settings,
            falling=arguments.falling,
            augment=augment,
            adversarial_eps=arguments.adversarial_eps,
            seed=arguments.seed,
            verbose=1 if sys.stdout.isatty() else 2,
            strategy=strategy,
        )
    right = trapping.accuracy(model, test)
    print(f"Test accuracy: {right:.2%} of {len(test)} images")
    if output is not None and is_chief(strategy):
        save_model(model, output)
        print(f"Saved to {output}")


def _answered(data: Dataset, arguments: Flags) -> Dataset:
    """Returns images with the classes that `--answers_of` says they are of."""
    from keras_traps.commands import trapping
    from keras_traps.models.forms import check_data, class_answers, find_bounds

    asked = trapping.load_classifier(arguments.answers_of, arguments.dataset)
    with refusing():
        check_data(asked, data, name="--answers_of")
        # The largest output is the answer, whatever they are.
        answers = class_answers(asked, data.images, "scores", find_bounds(asked))
    labels = answers.argmax(axis=1)
    same = (labels == data.labels).mean()
    print(f"{arguments.answers_of} answers with the label on {same:.2%} of the images")
    return dataclasses.replace(data, labels=labels)


def _augmentation(arguments: Flags) -> keras.Layer | None:
    import keras
    import numpy as np

    # Layers of the same seed would draw alike.
    seeds = np.random.SeedSequence(arguments.seed).generate_state(3) >> 1
    flips, shifts, noises = map(int, seeds)
    steps: list[keras.Layer] = []
    if arguments.augment:
        steps.append(keras.layers.RandomFlip("horizontal", seed=flips))
        reach = {"height_factor": _SHIFT, "width_factor": _SHIFT}
        shift = keras.layers.RandomTranslation(
            **reach, fill_mode="reflect", seed=shifts
        )
        steps.append(shift)
    if arguments.noise:
        steps.append(keras.layers.GaussianNoise(arguments.noise, seed=noises))
    return keras.Sequential(steps) if steps else None


if __name__ == "__main__":
    command_line.run(main, "Nothing was saved: start again.")
