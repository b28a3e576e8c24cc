"""BPDA: PGD past layers that have no gradient, or a useless one."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from keras_traps.attacks.base import Batch, Kind, Perturbed
from keras_traps.attacks.gradient import Recipe, run_gradient_loop
from keras_traps.attacks.iterative import IterativeAttack
from keras_traps.attacks.linf import uniform_start
from keras_traps.attacks.straight_through import StraightThrough


@dataclasses.dataclass(frozen=True, kw_only=True)
class BPDA(IterativeAttack):
    """Backward pass differentiable approximation: PGD on an approximated gradient.

    The forward pass is the model's own. The backward pass takes the layers in
    `through` for the identity: the approximation of the original paper where a layer
    gives back about what it is given, a rounding or a purification.

    A model that is differentiable throughout leaves nothing to approximate: without
    `through` these are PGD's steps, from PGD's starts. The attractor paper reports BPDA
    on such a model and does not say what was replaced there, and the Trapdoor authors'
    published code, after whose settings it is, has none.

    Args:
        through: Names of the layers that the backward pass takes for the identity.
            They keep the shape of their input, and may lie in a model inside the model;
            a whole model may be named. Defaults to `()`: none.
        abort_early: Whether an example stops as soon as it has succeeded. Defaults to
            `False`.

    Reference:
        Athalye et al., Obfuscated gradients give a false sense of security, 2018.
    """

    through: Sequence[str] = ()
    abort_early: bool = False
    name: ClassVar[str] = "BPDA"
    kind: ClassVar[Kind] = "UA"
    # The model may have none; the approximation is checked where it is made.
    needs_gradient: ClassVar[bool] = False
    note: ClassVar[str] = (
        "Takes the layers in `through` for the identity; without them it is PGD."
    )

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if isinstance(self.through, str) or not all(
            isinstance(name, str) for name in self.through
        ):
            raise TypeError(
                "Invalid value for argument `through`. Expected a sequence of names. "
                f"Received: through={self.through!r}"
            )
        # Equal whether read from a file or written in Python.
        object.__setattr__(self, "through", tuple(self.through))

    def perturb(self, batch: Batch) -> Perturbed:
        """Iterates from a random point."""
        recipe = Recipe(
            infer=StraightThrough(tuple(self.through)), abort_early=self.abort_early
        )
        return run_gradient_loop(
            batch,
            recipe,
            self._loop_settings(),
            start=uniform_start(batch, self.eps),
        )
