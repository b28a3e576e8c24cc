"""What attacks share that only ask a model: turns, the count, and what is told."""

import abc
import contextlib
import dataclasses
from collections.abc import Generator
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.base import Attack, Batch, Count, Knowledge, Perturbed
from keras_traps.attacks.loop import Stream, per_example, refuse
from keras_traps.models.inference import predict

Images = npt.NDArray[np.floating]
Made = TypeVar("Made")
Asking = Generator[Images, FloatArray, Made]
"""Yields images, `(n, height, width, channels)`, and is told of each, `(n,)`."""
Search = Asking[None]


# More than any lead, and less than float32 holds.
_FAR = 1e30


class Example(NamedTuple):
    """What a search works on.

    Args:
        clean: `(height, width, channels)`, float32, in [0, 1].
        found: What is given back when the search ends, or its queries do: of the same
            shape, for the search to write into; the clean image at first.
        draw: A generator of its own.
    """

    clean: FloatArray
    found: FloatArray
    draw: np.random.Generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryAttack(Attack, abc.ABC):
    """An attack that asks a model about images, and is told nothing else of it.

    The first query is the clean image: an example that is answered wrong already comes
    back as it is. The queries are its iterations, at most `nb_queries`.

    It is told by how much another class leads over the true one: above 0 where the
    model is fooled. With `labels_only` that is 1 or -1. Where a detector watches, it is
    told the lesser of that lead and of how far the score lies below the threshold, each
    as a multiple of its size at the clean image, so that neither's unit matters: above
    0 where the model is fooled and the image is not flagged. With `labels_only` that is
    1, and -1 stands for all else.
    """

    nb_queries: Count = 500  # at most, for each example
    labels_only: ClassVar[bool] = False
    knowledge: ClassVar[Knowledge] = "scores"
    needs_gradient = False
    takes_detector = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchAttack(QueryAttack, abc.ABC):
    """One that searches for each example by itself.

    So no batch matters; the batch's searches are asked in turns, one call of the model
    for all. A search ends before a turn that would exceed `nb_queries`.
    """

    @abc.abstractmethod
    def search(self, example: Example) -> Search:
        """Searches for one example, of which the clean image is no success."""

    def perturb(self, batch: Batch) -> Perturbed:
        """Runs the searches, all that still go on in each turn."""
        images = batch.images.copy()
        seeds = per_example(
            lambda generator: generator.integers(2**63),
            batch.ids,
            batch.seed,
            Stream.QUERIES,
        )
        searches = [
            self._from_clean(Example(clean, found, np.random.default_rng(int(seed))))
            for clean, found, seed in zip(batch.images, images, seeds, strict=True)
        ]
        teller = Teller(self, batch)
        spent = np.zeros(len(searches), np.int64)
        asked = {row: next(search) for row, search in enumerate(searches)}
        while asked:
            sizes = [len(some) for some in asked.values()]
            shown = np.concatenate(list(asked.values())).astype(np.float32, copy=False)
            told = teller.tell(np.repeat(list(asked), sizes), shown)
            turn, asked = list(asked), {}
            for row, own in zip(
                turn, np.split(told, np.cumsum(sizes)[:-1]), strict=True
            ):
                spent[row] += len(own)
                with contextlib.suppress(StopIteration):
                    following = searches[row].send(own)
                    if spent[row] + len(following) <= self.nb_queries:
                        asked[row] = following
        return Perturbed(images, spent, teller.rejections)

    def _from_clean(self, example: Example) -> Search:
        """Searches, where that is called for."""
        (lead,) = yield example.clean[None]
        if lead <= 0:
            yield from self.search(example)


class Teller:
    """Tells an attack of images, and counts for each example what is rejected."""

    def __init__(self, attack: QueryAttack, batch: Batch) -> None:
        self.attack, self.batch = attack, batch
        self.rejections = np.zeros(len(batch.ids), np.int64)
        self._units: FloatArray | None = None

    def tell(self, rows: IntArray, images: FloatArray) -> FloatArray:
        """Returns what is told of images; `rows` says whose they are."""
        batch, watched = self.batch, self.batch.watched
        outputs, labels = predict(batch.model, images), batch.labels[rows]
        infinite = rows[np.logical_not(np.isfinite(outputs).all(axis=1))]
        refuse(
            np.isin(np.arange(len(batch.ids)), infinite),
            batch.ids,
            f"{self.attack.name} asked about images on which the model's outputs are "
            "not finite,",
        )
        told, labels_only = leads(outputs, labels), self.attack.labels_only
        if labels_only:
            told = np.where(outputs.argmax(axis=1) == labels, -1.0, 1.0)
        if watched is None:
            return told
        found = watched.detect(images, batch.ids[rows])
        np.add.at(self.rejections, rows, found.is_adversarial)
        if labels_only:
            return np.where(found.is_adversarial, -1.0, told)
        both = np.stack([told, watched.threshold - found.score]).astype(np.float64)
        if self._units is None:
            # The first turn is one clean image of each example.
            self._units = np.maximum(np.abs(both), np.finfo(np.float32).tiny)
        lead = told
        told = (both / self._units[:, rows]).min(axis=0).clip(-_FAR, _FAR)
        # A score at the threshold is not flagged.
        passed = np.where(lead > 0, np.maximum(told, 1 / _FAR), told)
        return np.where(found.is_adversarial, np.minimum(told, 0.0), passed)


def leads(outputs: FloatArray, labels: IntArray) -> FloatArray:
    """Returns `(rows,)`: how far the strongest other class lies above the given one."""
    own = np.arange(outputs.shape[1]) == labels[:, None]
    lead: FloatArray = np.where(own, -np.inf, outputs).max(axis=1) - outputs[own]
    return lead
