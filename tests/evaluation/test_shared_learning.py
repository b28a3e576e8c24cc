import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from keras_traps.attacks.universal import UniversalPerturbation

from keras_traps.attacks import Attack, Batch, Perturbed, create
from keras_traps.attacks.base import Kind
from keras_traps.attacks.uap import UAP
from keras_traps.evaluation.shared_learning import can_share, with_known
from tests.attacks.victims import some_images, tanh_net


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aiming(UAP):
    """Learns another perturbation each time, and is told targets."""

    name: ClassVar[str] = "Aiming"
    kind: ClassVar[Kind] = "TA"
    learnt: ClassVar[list[UniversalPerturbation]] = []

    def learn(self, batch: Batch) -> UniversalPerturbation:
        change = np.full(batch.images.shape[1:], -self.eps / 2 ** len(self.learnt))
        self.learnt.append(UniversalPerturbation(change.astype(np.float32), 1, 0.5))
        return self.learnt[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Half(UAP):
    """Goes half the way."""

    name: ClassVar[str] = "Half"

    def perturb(self, batch: Batch) -> Perturbed:
        whole = super().perturb(batch)
        return Perturbed((batch.images + whole.images) / 2, whole.iterations)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (create("UAP", eps=0.1), True),
        (Aiming(eps=0.1), True),
        (Half(eps=0.1), False),
        (create("FGSM", eps=0.1), False),
    ],
)
def test_what_does_more_than_learn_and_add_is_not_shared(
    attack: Attack, expected: bool
) -> None:
    assert can_share(attack) is expected


def test_what_is_known_is_not_learnt_again_and_all_else_is_the_subclass() -> None:
    model, images = tanh_net().model, some_images(4)
    known: list[UniversalPerturbation] = []
    first = with_known(Aiming(eps=0.1), known)
    second = with_known(Aiming(eps=0.1), known)
    assert first == Aiming(eps=0.1)

    found = [
        one(model, images, [0] * 4, y_target=[1] * 4, batch_size=2)
        for one in (first, second)
    ]

    assert known == Aiming.learnt
    assert len(known) == 1
    np.testing.assert_array_equal(found[0].images, found[1].images)
    np.testing.assert_array_equal(found[0].success, found[0].answers == 1)
