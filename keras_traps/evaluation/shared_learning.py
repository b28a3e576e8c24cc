"""A universal perturbation that one process learns, and others add."""

import copy

from keras_traps.attacks import Attack, Batch
from keras_traps.attacks.uap import UAP
from keras_traps.attacks.universal import UniversalPerturbation


def can_share(attack: Attack) -> bool:
    """Tells whether all that an attack does with a batch is to learn and to add.

    Args:
        attack: Any attack.

    Returns:
        Whether it is UAP, or of a subclass that leaves `perturb` as it is: one of its
        own may learn otherwise, more than once, or not at all.
    """
    return isinstance(attack, UAP) and type(attack).perturb is UAP.perturb


def with_known(attack: UAP, known: list[UniversalPerturbation]) -> UAP:
    """Returns an attack that adds a perturbation that is known already.

    Args:
        attack: One that `can_share`.
        known: The perturbation, alone; or empty, until the first batch has learnt it.

    Returns:
        A copy, of the same class and settings, that learns nothing but what goes into
        `known`.
    """

    def learn(batch: Batch) -> UniversalPerturbation:
        if not known:
            known.append(attack.learn(batch))
        return known[0]

    shared = copy.copy(attack)
    # On the copy alone, which is frozen: all else stays what the class makes of it.
    object.__setattr__(shared, "learn", learn)
    return shared
