"""Carlini and Wagner's attack in L2."""

import dataclasses
from typing import ClassVar

from keras_traps.attacks.base import Kind, TargetRule
from keras_traps.attacks.optimization import Method
from keras_traps.attacks.search_attack import SearchAttack
from keras_traps.attacks.tanh_space import TanhAdam


@dataclasses.dataclass(frozen=True, kw_only=True)
class CW2(SearchAttack):
    """The smallest change in L2 that makes the answer a given class.

    Adam lowers the squared L2 distance plus c times a hinge of the logits, in tanh
    space. The defaults are cleverhans'.

    Args:
        learning_rate: Adam's step, above 0. Defaults to `5e-3`.
        binary_search_steps: How many c to try, at least 1. Defaults to `5`.
        max_iterations: How many steps with each c at most, at least 1. Defaults to
            `1000`.
        initial_const: The first c, above 0. Defaults to `1e-2`.

    Reference:
        Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017.
    """

    learning_rate: float = 5e-3
    binary_search_steps: int = 5
    max_iterations: int = 1000
    initial_const: float = 1e-2
    name: ClassVar[str] = "CW2"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"
    method: ClassVar[type[Method]] = TanhAdam


@dataclasses.dataclass(frozen=True, kw_only=True)
class UCW2(CW2):
    """The smallest change in L2 that makes the answer another class.

    Reference:
        Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017.
    """

    name: ClassVar[str] = "UCW2"
    kind: ClassVar[Kind] = "UA"
    target_rule: ClassVar[TargetRule] = "none"
