"""Which attacks are compared, with which settings: the same for all libraries."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from keras_traps import attacks
from keras_traps.attacks import Attack

_EARLY = "PGD-early"


@dataclasses.dataclass(frozen=True)
class Case:
    """An attack with its settings.

    Args:
        name: How it is shown.
        attack: The attack, as the package makes it.
        steps: How many steps the settings allow an image, or `None` where an image has
            none of its own.
        minimal: Whether it looks for the smallest change, so that its length counts.
    """

    name: str
    attack: Attack
    steps: int | None
    minimal: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """All hyper-parameters, by cleverhans' names."""
        return self.attack.settings()


def all_cases(image_shape: Sequence[int], *, radius: float) -> list[Case]:
    """Lists what is compared.

    Args:
        image_shape: Height, width and channels: grey images have the settings for
            MNIST, others those for CIFAR-10.
        radius: The radius and the steps of the attacks in an L-infinity ball, as a
            share of those in the attractor paper's Table VII.

    Returns:
        The cases, attacks that the registry does not have left out.
    """
    name = "table7_mnist_cpu" if image_shape[-1] == 1 else "table7_cifar10_cpu"
    preset = attacks.PRESETS[name]
    eps, eps_iter = (radius * preset["BIM"][key] for key in ("eps", "eps_iter"))
    linf = {"eps": eps, "eps_iter": eps_iter}
    few, many = {**linf, "nb_iter": 15}, {**linf, "nb_iter": 40}
    first = {"initial_const": 1.0}
    rate = {key: preset[key]["learning_rate"] for key in ("CW2", "EAD")}
    changed = math.prod(image_shape) * 0.1
    listed = {
        "FGSM": ("FGSM", {"eps": eps}, 1),
        "BIM": ("BIM", few, 15),
        "PGD": ("PGD", many, 40),
        _EARLY: ("PGD", {**many, "abort_early": True}, 40),
        "UMIFGSM": ("UMIFGSM", few, 15),
        "MIM": ("MIM", few, 15),
        # It has passes through the background, and no steps. All libraries make both.
        "UAP": ("UAP", {"eps": eps, "fooling_rate": 0.99, "max_iter": 2}, None),
        "DeepFool": ("DeepFool", {"max_iter": 50, "overshoot": 0.02}, 50),
        "JSMA": ("JSMA", {"theta": 1.0, "gamma": 0.1}, math.ceil(changed / 2)),
        "CW2": (
            "CW2",
            {
                **first,
                "learning_rate": rate["CW2"],
                "binary_search_steps": 5,
                "max_iterations": 50,
            },
            250,
        ),
        "EAD": (
            "EAD",
            {
                **first,
                "learning_rate": rate["EAD"],
                "binary_search_steps": 3,
                "max_iterations": 100,
                "beta": 1e-3,
            },
            300,
        ),
    }
    return [
        Case(
            name,
            attacks.create(attack, **settings),
            steps,
            minimal=attack in ("DeepFool", "CW2", "EAD"),
        )
        for name, (attack, settings, steps) in listed.items()
        if attack in attacks.names()
    ]
