"""What attacks are compared on: a classifier, images that it gets right, targets."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_traps import datasets
from keras_traps._checks import FloatArray, IntArray
from keras_traps._classifier_files import load_classifier
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.models import digits_cnn, train
from keras_traps.models.inference import predict

_EPOCHS = 20


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to attack, in a form that goes from process to process.

    Args:
        dataset: The data set's name; its test images are attacked.
        data_dir: The folder that holds it, or `None`.
        model: A `.keras` file of a model that returns logits, or a DEEPSEC `.npz` state
            dict. With `None` a small CNN is trained, on the digits only.
        num_examples: How many images at most, the first that the model gets right.
        num_background: How many training images a universal attack learns from.
        seed: Of targets, and of the training.
    """

    dataset: str
    data_dir: str | None
    model: str | None
    num_examples: int
    num_background: int
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Victim:
    """A classifier, and what is attacked.

    Args:
        model: It returns logits.
        images: `(images, height, width, channels)`, float32, in [0, 1].
        labels: `(images,)`, int64: their classes.
        targets: `(images,)`, int64: a wrong class for each.
        background: Training images, alike; a universal attack learns from them.
        data_sha256: The hash of the test set.
    """

    model: keras.Model
    images: FloatArray
    labels: IntArray
    targets: IntArray
    background: FloatArray
    data_sha256: str

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return int(self.model.output_shape[1])

    def repeated(self, count: int) -> "Victim":
        """Returns it with exactly `count` images, repeated where there are fewer."""
        rows = np.resize(np.arange(len(self.images)), count)
        return dataclasses.replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            targets=self.targets[rows],
        )

    def in_batches(
        self, attack: Callable[..., FloatArray], batch_size: int
    ) -> FloatArray:
        """Calls an attack batch by batch.

        Args:
            attack: From images, labels and targets to images.
            batch_size: How many images at once.

        Returns:
            All images that it returned.
        """
        parts = []
        for start in range(0, len(self.images), batch_size):
            part = slice(start, start + batch_size)
            parts.append(
                attack(self.images[part], self.labels[part], self.targets[part])
            )
        return np.concatenate(parts)


def load_victim(choice: Choice) -> Victim:
    """Loads, or trains, what is attacked.

    Args:
        choice: What.

    Returns:
        The victim.

    Raises:
        app.UsageError: If there is no such model, or none for the data set.
        DatasetNotFoundError: If there is no such data set.
        ValueError: If the model gets no image right.
    """
    training, test = (
        datasets.load(choice.dataset, split, choice.data_dir)
        for split in ("train", "test")
    )
    if choice.model is None:
        model = _trained(training, choice.seed)
    else:
        model = load_classifier(choice.dataset, Path(choice.model).expanduser())
    found = choose_candidates(
        predict(model, test.images),
        test,
        num_examples=choice.num_examples,
        seed=choice.seed,
    )
    return Victim(
        model=model,
        images=found.images,
        labels=found.labels,
        targets=found.random,
        background=training.images[: choice.num_background],
        data_sha256=test.sha256,
    )


def kept(choice: Choice, victim: Victim, folder: Path) -> Choice:
    """Returns the choice with the model on disk, so that it is not trained again.

    Args:
        choice: What the victim was loaded by.
        victim: The victim.
        folder: Where to save the model.
    """
    if choice.model is not None:
        return choice
    path = folder / "victim.keras"
    victim.model.save(path)
    return dataclasses.replace(choice, model=str(path))


def _trained(data: datasets.Dataset, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = digits_cnn()
    train(model, data, epochs=_EPOCHS, batch_size=32, learning_rate=2e-3, seed=seed)
    return model
