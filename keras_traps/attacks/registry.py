"""Every attack by its name."""

import inspect
from collections.abc import Sequence
from typing import Any, get_args

from keras_traps.attacks import (
    adaptive,
    apgd,
    bpda,
    cleverhans,
    decision_based,
    deepfool,
    fab,
    gradient,
    jsma,
    lbfgs,
    noise,
    optimization,
    score_based,
    smoothed,
    spsa,
    square,
)
from keras_traps.attacks.base import Attack, Kind, Knowledge
from keras_traps.attacks.loop import Loss
from keras_traps.attacks.presets import (
    ADAPTIVE,
    AUTOATTACK,
    GRADIENT_FREE,
    LEADERBOARD,
    LURING,
    PRESETS,
    leaderboard,
)

_ANY_RADIUS = {**LURING, **GRADIENT_FREE, **ADAPTIVE, **AUTOATTACK, **LEADERBOARD}

_ATTACKS: dict[str, type[Attack]] = {
    attack.name: attack
    for attack in (
        gradient.FGSM,
        gradient.RFGSM,
        gradient.BIM,
        gradient.PGD,
        gradient.UMIFGSM,
        deepfool.UAP,
        deepfool.DeepFool,
        optimization.OptMargin,
        bpda.BPDA,
        spsa.SPSA,
        gradient.LLC,
        gradient.RLLC,
        gradient.ILLC,
        gradient.TMIFGSM,
        jsma.JSMA,
        lbfgs.BLB,
        optimization.CW2,
        optimization.EAD,
        gradient.MIM,
        gradient.MIML2,
        gradient.DIM,
        gradient.MIMTI,
        gradient.DIMTI,
        smoothed.TIPGD,
        smoothed.EOTPGD,
        optimization.UCW2,
        noise.Noise,
        score_based.NES,
        score_based.AskingSPSA,
        square.Square,
        decision_based.RayS,
        decision_based.HopSkipJump,
        adaptive.SelectivePGD,
        adaptive.OrthogonalPGD,
        adaptive.LagrangianPGD,
        apgd.APGD,
        apgd.APGDT,
        fab.FAB,
        cleverhans.CleverhansFGM,
        cleverhans.CleverhansBIM,
        cleverhans.CleverhansPGD,
        cleverhans.CleverhansMadry,
        cleverhans.CleverhansMIM,
        cleverhans.CleverhansCW2,
        cleverhans.CleverhansSPSA,
    )
}


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
        TypeError: If it is no such class, lacks a name or a kind, or names a loss or a
            knowledge that there is not.
        ValueError: If there is one of its name already.
    """
    if (
        not (isinstance(attack, type) and issubclass(attack, Attack))
        or inspect.isabstract(attack)
        or not isinstance(getattr(attack, "name", None), str)
        or getattr(attack, "kind", None) not in get_args(Kind)
        or attack.knowledge not in get_args(Knowledge)
        or not set(attack.losses) <= set(get_args(Loss))
    ):
        raise TypeError(
            "Invalid value for argument `attack`. Expected a concrete subclass of "
            f"`Attack` with a name, a kind of {get_args(Kind)}, losses of "
            f"{get_args(Loss)} and a knowledge of {get_args(Knowledge)}. "
            f"Received: attack={attack!r}"
        )
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


def preset(
    name: str, attacks: Sequence[str] | None = None, *, eps: float | None = None
) -> list[Attack]:
    """Makes the attacks of a preset.

    Args:
        name: One of `PRESETS`.
        attacks: Which of them, by name, at least one. Defaults to `None`: all.
        eps: Another radius for all of them that have one. The luring paper's presets
            take it, of which `LURING_EPS` has the paper's, AutoAttack's, the adaptive
            ones, those without gradients and the leaderboard's. Defaults to the
            preset's own.

    Returns:
        The attacks, in the order asked for.

    Raises:
        ValueError: If there is no such preset, no attack is asked for, or one that is
            not in it, or it takes no other radius.
    """
    if name not in PRESETS:
        raise ValueError(
            f"Invalid value for argument `name`. Expected one of {', '.join(PRESETS)}. "
            f"Received: name={name!r}"
        )
    settings = PRESETS[name]
    if name in LEADERBOARD and eps is not None:
        # Its steps grow with the radius; others' are their papers', or follow from it.
        settings = leaderboard(eps)
    chosen = list(settings if attacks is None else attacks)
    if not chosen:
        raise ValueError(
            "Invalid value for argument `attacks`. Expected at least one of "
            f"{', '.join(settings)}, or `None` for all. Received: attacks={attacks!r}"
        )
    if unknown := [attack for attack in chosen if attack not in settings]:
        raise ValueError(
            f"Invalid value for argument `attacks`. Preset {name!r} has "
            f"{', '.join(settings)}. Received: {', '.join(unknown)}"
        )
    if eps is not None and name not in _ANY_RADIUS:
        raise ValueError(
            "Invalid value for argument `eps`. Expected `None` beside the preset "
            f"{name!r}, which has one radius. Received: eps={eps}"
        )
    made = []
    for attack in chosen:
        own = settings[attack]
        radius = {"eps": eps} if eps is not None and "eps" in own else {}
        made.append(create(attack, **{**own, **radius}))
    return made
