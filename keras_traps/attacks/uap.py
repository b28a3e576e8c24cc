"""Universal adversarial perturbations: one change for all images."""

import dataclasses
from typing import ClassVar

import numpy as np

from keras_traps._checks import check_count, check_number
from keras_traps.attacks.base import Batch, Kind, Perturbed
from keras_traps.attacks.linf import LinfAttack
from keras_traps.attacks.universal import (
    LearningSettings,
    UniversalPerturbation,
    learn_perturbation,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UAP(LinfAttack):
    """One perturbation, learnt from other images, that is added to every image.

    It is learnt without labels from the call's `background` images: at the first batch,
    and anew where the model's weights, the background, the seed or the settings are not
    those that the model's last one was learnt with. A pass goes through the images in
    small batches: DeepFool leads those that are not yet fooled over the boundary, and
    their steps are added to the perturbation, which is kept in the L-infinity ball.
    What counts as iterations are the passes.

    The published algorithm takes one image at a time, which is `nb_at_once=1`.

    Args:
        fooling_rate: It is done after the pass that fools this share of the background,
            in (0, 1). Where none does, the best pass counts. Defaults to `0.3`.
        nb_images: How many of the background images to learn from at most, at least 1;
            drawn by the seed. Defaults to `5000`.
        nb_at_once: How many images each step looks at, at least 1. Defaults to `16`.
        max_iter: How many passes at most, at least 1. Defaults to `20`.
        deepfool_max_iter: How many steps DeepFool makes, at least 1. Defaults to `10`.
        overshoot: See `DeepFool`. Defaults to `0.02`.
        nb_candidate: See `DeepFool`. Defaults to `None`: all.

    Reference:
        Moosavi-Dezfooli et al., Universal adversarial perturbations, 2017,
        algorithm 1.
    """

    fooling_rate: float = 0.3
    nb_images: int = 5000
    nb_at_once: int = 16
    max_iter: int = 20
    deepfool_max_iter: int = 10
    overshoot: float = 0.02
    nb_candidate: int | None = None
    name: ClassVar[str] = "UAP"
    kind: ClassVar[Kind] = "UA"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_number(self.fooling_rate, name="fooling_rate", above=0, below=1)
        for name in ("nb_images", "nb_at_once", "max_iter", "deepfool_max_iter"):
            check_count(name, getattr(self, name))
        check_number(self.overshoot, name="overshoot", at_least=0)
        if self.nb_candidate is not None:
            check_count("nb_candidate", self.nb_candidate, at_least=2)

    def perturb(self, batch: Batch) -> Perturbed:
        """Adds the perturbation, which the first batch learns."""
        return self.add(self.learn(batch), batch)

    def learn(self, batch: Batch) -> UniversalPerturbation:
        """Learns the perturbation, or returns it if it was the last one learnt.

        Args:
            batch: Of which the model, the background and the seed count.

        Returns:
            The perturbation with how it was come by.
        """
        return learn_perturbation(
            batch.model,
            batch.background,
            LearningSettings(**dataclasses.asdict(self)),
            seed=batch.seed,
        )

    @staticmethod
    def add(learnt: UniversalPerturbation, batch: Batch) -> Perturbed:
        """Adds a perturbation to every image.

        Args:
            learnt: What `learn` returned, here or in another process.
            batch: Of which the images count.

        Returns:
            The images, and as iterations the passes.
        """
        images = np.clip(batch.images + learnt.perturbation, 0, 1)
        return Perturbed(images, learnt.passes)
