"""The best state of a training, by images that it does not see."""

import dataclasses
import io
from typing import NamedTuple

import keras
import numpy as np

from keras_traps._checks import FloatArray, IntArray
from keras_traps._files import write_atomically
from keras_traps.datasets import Dataset
from keras_traps.luring.training import Backup
from keras_traps.models.inference import predict

_FILE = "best.npz"


def hold_out(data: Dataset, share: float, *, seed: int) -> tuple[Dataset, Dataset]:
    """Puts some images aside, chosen at random.

    Args:
        data: All images.
        share: How large a part, above 0 and below 1; rounded down to whole images.
        seed: Of the choice, and of the order of the others.

    Returns:
        The images to train on, and those that are held out.

    Raises:
        ValueError: If there are too few images for one to be held out.
    """
    count = int(len(data) * share)
    if not 0 < count < len(data):
        raise ValueError(
            "Invalid value for argument `validation_split`. Expected a share that "
            f"holds out some of {len(data)} images and not all. Received: {share}"
        )
    shuffled = data.take(len(data), seed=seed)
    held = dataclasses.replace(
        shuffled, pixels=shuffled.pixels[-count:], labels=shuffled.labels[-count:]
    )
    return shuffled.take(len(data) - count), held


class Picked(NamedTuple):
    """Which state of a training was kept.

    Args:
        step: After how many steps.
        score: The share of the images that were held out to which it answers right.
    """

    step: int
    score: float


class Best:
    """The weights that answered right most often; of equal ones, the first.

    Args:
        model: What is trained, whose weights are kept.
        images: Images that it is not trained on.
        labels: `(images,)`, integers: the right answers.
        backup: Where they are kept while the training lasts. Defaults to nowhere.
        answering: What is asked, where it is not the model itself but one that it is
            part of. Defaults to `model`.
    """

    def __init__(
        self,
        model: keras.Model,
        images: FloatArray,
        labels: IntArray,
        backup: Backup | None = None,
        *,
        answering: keras.Model | None = None,
    ) -> None:
        self._model, self._images, self._labels = model, images, labels
        self._answering = model if answering is None else answering
        self._path = None if backup is None else backup.path(_FILE)
        self._picked, self._weights = Picked(0, -1.0), model.get_weights()
        if self._path is not None and self._path.exists():
            with np.load(self._path) as found:
                self._picked = Picked(int(found["step"]), float(found["score"]))
                self._weights = [found[f"w{i}"] for i in range(len(self._weights))]

    def keep(self, step: int) -> None:
        """Looks at the model, and keeps its weights if they are the best so far.

        Args:
            step: How many steps it has made.
        """
        answers = predict(self._answering, self._images).argmax(axis=1)
        score = float((answers == self._labels).mean())
        if score <= self._picked.score:
            return
        self._picked, self._weights = Picked(step, score), self._model.get_weights()
        if self._path is not None:
            buffer = io.BytesIO()
            named = {f"w{i}": weight for i, weight in enumerate(self._weights)}
            facts = {"step": np.array(step), "score": np.array(score)}
            np.savez(buffer, allow_pickle=False, **facts, **named)
            write_atomically(self._path, buffer.getvalue())

    def restore(self) -> Picked:
        """Gives the model its best weights.

        Returns:
            Which these are.
        """
        self._model.set_weights(self._weights)
        return self._picked
