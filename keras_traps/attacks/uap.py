"""Universal adversarial perturbations: one change for all images."""

import dataclasses
import hashlib
from collections.abc import Hashable
from typing import ClassVar, NamedTuple

import keras
import numpy as np

from keras_traps._checks import FloatArray, IntArray, check_share
from keras_traps.attacks.base import (
    Batch,
    Count,
    Kind,
    LinfAttack,
    NotNegative,
    Perturbed,
    TwoOrMore,
    naming_examples,
)
from keras_traps.attacks.deepfool import DeepFool
from keras_traps.attacks.loop import once_per_model
from keras_traps.models.inference import predict
from keras_traps.provenance import weights_sha256

# How many images the model is asked about at once where no gradient is taken.
_ANSWER_BATCH = 500


class UniversalPerturbation(NamedTuple):
    """What was learnt."""

    perturbation: FloatArray
    passes: int
    fooling_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class UAP(LinfAttack):
    """One perturbation, learnt from other images, that is added to every image.

    It is learnt without labels from the call's `background` images, and anew where the
    weights, the background, the seed or the settings are others. In each pass, which
    count as iterations, DeepFool leads the images that are not yet fooled over the
    boundary: Moosavi-Dezfooli et al., Universal adversarial perturbations, 2017,
    algorithm 1, where `nb_at_once=1`.
    """

    # It is done after the pass that fools this share of the background; where none
    # does, the best pass counts.
    fooling_rate: float = 0.3
    nb_images: Count = 5000  # how many to learn from at most, drawn by the seed
    nb_at_once: Count = 16  # images that each step looks at
    max_iter: Count = 20  # passes at most
    deepfool_max_iter: Count = 10
    overshoot: NotNegative = 0.02  # see `DeepFool`
    nb_candidate: TwoOrMore | None = None  # see `DeepFool`
    name: ClassVar[str] = "UAP"
    kind: ClassVar[Kind] = "UA"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.fooling_rate, name="fooling_rate")

    def perturb(self, batch: Batch) -> Perturbed:
        """Adds the perturbation, which the first batch learns."""
        learnt = self.learn(batch)
        images = np.clip(batch.images + learnt.perturbation, 0, 1)
        return Perturbed(images, learnt.passes)

    def learn(self, batch: Batch) -> UniversalPerturbation:
        """Learns the perturbation, or returns it if it was the model's last one."""
        draw = np.random.default_rng(batch.seed)
        chosen = draw.permutation(len(batch.background))[: self.nb_images]
        images = batch.background[chosen]
        # The images may be many, and live longer than the model: only a digest is kept.
        digest = hashlib.sha256(images.data).hexdigest()
        key = (self, batch.seed, digest, weights_sha256(batch.model))
        last = learnt_on(batch.model)
        if key not in last:
            with naming_examples(
                f"UAP on {batch.model.name!r}", of=" of the background"
            ):
                learnt = self._learn(batch.model, images, chosen, draw)
            last.clear()
            last[key] = learnt
        return last[key]

    def _learn(
        self,
        model: keras.Model,
        images: FloatArray,
        ids: IntArray,
        draw: np.random.Generator,
    ) -> UniversalPerturbation:
        answers = _answers(model, images)
        best = perturbation = np.zeros(images.shape[1:], np.float32)
        best_rate, passes = 0.0, 0
        while passes < self.max_iter and best_rate < self.fooling_rate:
            order = draw.permutation(len(images))
            for start in range(0, len(order), self.nb_at_once):
                rows = order[start : start + self.nb_at_once]
                step = self._step(
                    model, images[rows], answers[rows], ids[rows], perturbation
                )
                perturbation = np.clip(perturbation + step, -self.eps, self.eps)
            passes += 1
            moved = _answers(model, np.clip(images + perturbation, 0, 1))
            rate = float(np.mean(moved != answers))
            # The passes go up and down; the published algorithm keeps the last.
            if rate >= best_rate:
                best, best_rate = perturbation, rate
        return UniversalPerturbation(best, passes, best_rate)

    def _step(
        self,
        model: keras.Model,
        images: FloatArray,
        answers: IntArray,
        ids: IntArray,
        perturbation: FloatArray,
    ) -> FloatArray:
        """Returns the sum of the steps that fool the images that are not yet fooled."""
        moved = np.clip(images + perturbation, 0, 1)
        search = DeepFool(
            max_iter=self.deepfool_max_iter,
            overshoot=self.overshoot,
            nb_candidate=self.nb_candidate,
        )
        found = search.cross(model, moved, answers, ids)
        # An image that was fooled before, or could not be, comes back as it was.
        step: FloatArray = (found.images.numpy() - moved).sum(axis=0)
        return step


def learnt_on(model: keras.Model) -> dict[Hashable, UniversalPerturbation]:
    """Returns what was learnt of a model last, by all that it depends on."""
    return once_per_model(model, "universal", lambda _: {})


def _answers(model: keras.Model, images: FloatArray) -> IntArray:
    answers = predict(model, images, batch_size=_ANSWER_BATCH)
    return answers.argmax(axis=1).astype(np.int64)
