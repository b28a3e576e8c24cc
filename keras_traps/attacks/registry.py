"""Every attack by its name, and the papers' settings by theirs."""

from collections.abc import Sequence
from typing import Any

from keras_traps.attacks import iterative, single_step
from keras_traps.attacks.base import Attack

_ATTACKS: dict[str, type[Attack]] = {
    attack.name: attack
    for attack in (
        single_step.FGSM,
        single_step.RFGSM,
        iterative.BIM,
        iterative.PGD,
        iterative.UMIFGSM,
        single_step.LLC,
        single_step.RLLC,
        iterative.ILLC,
        iterative.TMIFGSM,
    )
}


def _table_vii(eps: float, eps_iter: float) -> dict[str, dict[str, Any]]:
    # The table gives no number of steps for ILLC and TMIFGSM; theirs are the others'.
    iterative = {"eps": eps, "eps_iter": eps_iter, "nb_iter": 15}
    single = {"eps": eps}
    randomised = {"eps": eps, "alpha": eps / 2}
    return {
        "FGSM": single,
        "RFGSM": randomised,
        "BIM": iterative,
        "PGD": iterative,
        "UMIFGSM": iterative,
        "LLC": single,
        "RLLC": randomised,
        "ILLC": iterative,
        "TMIFGSM": iterative,
    }


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "table7_mnist": _table_vii(0.3, 0.05),
    # Not in the paper: its MNIST settings on the built-in digits.
    "digits": _table_vii(0.3, 0.05),
    "table7_cifar10": _table_vii(0.1, 0.01),
    "table8": {
        "FGSM": {"eps": 0.3},
        "PGD": {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100},
    },
}
"""Settings by preset and attack: the attractor paper's Tables VII and VIII.

UMIFGSM and TMIFGSM run cleverhans' momentum method, which normalises each gradient
where DEEPSEC's does not.
"""


def names() -> tuple[str, ...]:
    """Lists all attacks.

    Returns:
        Their names, in the order of the paper's tables, registered ones after them.
    """
    return tuple(_ATTACKS)


def register(attack: type[Attack]) -> type[Attack]:
    """Adds an attack to the registry; also as a class decorator.

    Args:
        attack: A concrete subclass of `Attack`.

    Returns:
        `attack`.

    Raises:
        ValueError: If there is one of its name already.
    """
    if attack.name in _ATTACKS:
        raise ValueError(
            f"Invalid value for argument `attack`. There is an attack named "
            f"{attack.name!r} already."
        )
    _ATTACKS[attack.name] = attack
    return attack


def create(name: str, **settings: Any) -> Attack:
    """Makes an attack.

    Args:
        name: Its name, one of `names()`.
        **settings: Its hyper-parameters, by cleverhans' names.

    Returns:
        The attack.

    Raises:
        ValueError: If there is none of that name, or a setting is out of its range.
        TypeError: If a setting is unknown or missing.
    """
    if name not in _ATTACKS:
        raise ValueError(
            f"Invalid value for argument `name`. Expected one of {', '.join(names())}. "
            f"Received: name={name!r}"
        )
    return _ATTACKS[name](**settings)


def preset(name: str, attacks: Sequence[str] | None = None) -> list[Attack]:
    """Makes the attacks of a preset.

    Args:
        name: One of `PRESETS`.
        attacks: Which of them, by name. Defaults to all.

    Returns:
        The attacks, in the order asked for.

    Raises:
        ValueError: If there is no such preset, or an attack is not in it.
    """
    if name not in PRESETS:
        raise ValueError(
            f"Invalid value for argument `name`. Expected one of {', '.join(PRESETS)}. "
            f"Received: name={name!r}"
        )
    settings = PRESETS[name]
    if unknown := [attack for attack in attacks or () if attack not in settings]:
        raise ValueError(
            f"Invalid value for argument `attacks`. Preset {name!r} has "
            f"{', '.join(settings)}. Received: {', '.join(unknown)}"
        )
    return [create(attack, **settings[attack]) for attack in attacks or settings]
