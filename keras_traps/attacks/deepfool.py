"""DeepFool: step by step to the nearest boundary of the linearised model."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from keras_traps._checks import check_count, check_number
from keras_traps.attacks.base import Attack, Batch, Kind, Perturbed
from keras_traps.attacks.boundary import boundary_search


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Minimal L2 perturbation by repeated linearisation of the model.

    Each step goes to the nearest of the linear boundaries between the given class and
    its competitors. The sum of the steps is stretched by `overshoot` and clipped to
    [0, 1]; an example is done as soon as another class is answered there.

    Args:
        max_iter: How many steps at most, at least 1. Defaults to `50`.
        overshoot: How far to go beyond the boundary, as a share of the perturbation,
            not below 0. Defaults to `0.02`.
        nb_candidate: How many classes to look at: those that the model holds most
            likely on the clean image, its own among them. At least 2. Defaults to
            `None`: all.

    Reference:
        Moosavi-Dezfooli et al., DeepFool: a simple and accurate method to fool deep
        neural networks, 2016.
    """

    max_iter: int = 50
    overshoot: float = 0.02
    nb_candidate: int | None = None
    name: ClassVar[str] = "DeepFool"
    kind: ClassVar[Kind] = "UA"
    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_count("max_iter", self.max_iter)
        check_number(self.overshoot, name="overshoot", at_least=0)
        if self.nb_candidate is not None:
            check_count("nb_candidate", self.nb_candidate, at_least=2)

    def perturb(self, batch: Batch) -> Perturbed:
        """Searches for the boundary."""
        found = boundary_search(batch.model)(
            tf.constant(batch.images),
            tf.constant(batch.labels),
            tf.constant(batch.ids),
            tf.constant(self.max_iter, tf.int32),
            tf.constant(self.overshoot, tf.float32),
            tf.constant(self.nb_candidate or batch.model.output_shape[1]),
        )
        return Perturbed(found.images, found.iterations)
