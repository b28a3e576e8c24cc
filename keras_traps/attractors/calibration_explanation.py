"""What `calibrate` says of its choices, in words."""

from keras_traps.attractors.calibration_rules import COLDEST
from keras_traps.attractors.injection import TrapSettings


def explain(
    settings: TrapSettings,
    changed: float,
    budget: float,
    largest_a2: float,
    mean: float,
    spread: float,
    chosen: bool,
) -> tuple[str, ...]:
    """Says why the constants are what they are.

    Args:
        settings: The constants.
        changed: The share of answers that A2 changes.
        budget: The share that it may change.
        largest_a2: The largest A2 that was looked at.
        mean: The mean distance of clean images.
        spread: How far theirs lie from it.
        chosen: Whether the temperature was left to the rule.

    Returns:
        One sentence or two for each choice.
    """
    weights = ", ".join(
        f"{weight:.3g} for step {step:g}"
        for step, weight in zip(settings.steps, settings.step_weights, strict=True)
    )
    bound = (
        f"the cap of {largest_a2:g} was reached before the budget of {budget:.2%}"
        if settings.a2 == largest_a2
        else f"a larger one would change more than the budget of {budget:.2%}"
    )
    return (
        f"Pixel weights: {weights}. The large step decides where perturbations are "
        "large; the small one pulls harder per grey level.",
        *_explain_border(settings),
        f"Clean images lie at a distance of {mean:.6g} from a message, give or take "
        f"{spread:.4g}; A0 = {settings.a0:.4g} and A1 = {settings.a1:.4g} put 99.9 % "
        "of them where equation 3 is steep, and leave room on both sides for attacks.",
        *_explain_temperature(settings, chosen),
        f"A2 = {settings.a2:.4g} changes {changed:.3%} of the calibration images' "
        f"answers; {bound}.",
    )


def _explain_border(settings: TrapSettings) -> tuple[str, ...]:
    if settings.border_weight == 1:
        return ()
    place = "border" if settings.border_weight > 1 else "middle"
    return (
        f"The border weight of {settings.border_weight:.3g} gives pixels more weight "
        f"the nearer they are to the {place}: attacks on few pixels are led there.",
    )


def _explain_temperature(settings: TrapSettings, chosen: bool) -> tuple[str, ...]:
    if not settings.soft_labels:
        return ()
    if settings.temperature == 1:
        return ("The soft labels are as the classifier has them, of temperature 1.",)
    told = (
        f"The soft labels have a temperature of {settings.temperature:.3g}: the "
        "surer the classifier is, the more of the gradient is the traps'.",
    )
    if not chosen or settings.temperature > COLDEST:
        return told
    return (
        *told,
        "It is the least that is chosen. Where the classifier is still unsure, its own "
        "gradient leads attacks past the traps.",
    )
