"""A universal perturbation that one process learns, and others add."""

import dataclasses
from typing import ClassVar

from keras_traps.attacks import Attack, Batch, Perturbed
from keras_traps.attacks.base import Kind
from keras_traps.attacks.uap import UAP
from keras_traps.attacks.universal import UniversalPerturbation


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedUAP(Attack):
    """UAP with a perturbation that is known already, or else is learnt and kept.

    Args:
        attack: The attack.
        known: The perturbation, alone; or empty, until the first batch has learnt it.
    """

    attack: UAP
    known: list[UniversalPerturbation]
    name: ClassVar[str] = UAP.name
    kind: ClassVar[Kind] = UAP.kind

    @property
    def linf_bound(self) -> float:
        """The radius of the attack's ball."""
        return self.attack.linf_bound

    def perturb(self, batch: Batch) -> Perturbed:
        """Adds the perturbation."""
        if not self.known:
            self.known.append(self.attack.learn(batch))
        return self.attack.add(self.known[0], batch)
