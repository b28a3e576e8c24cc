"""A calibration made once more with something changed."""

from typing import Any

from keras_traps._checks import FloatArray
from keras_traps.attractors import Calibration, calibrate
from keras_traps.evaluation.defence import Defence


def recalibrated(
    defence: Defence, calibration: Calibration, images: FloatArray, **changed: Any
) -> Calibration:
    """Calibrates by what a calibration was told, but for what is changed.

    Args:
        defence: The classifier.
        calibration: Budget, seed, messages, steps, share of the small step, soft
            labels with their temperature, border and norm.
        images: `(images, ...)`, float32, in [0, 1]: clean images. The budget is at
            least one of them.
        **changed: Arguments of `calibrate`.

    Returns:
        The calibration.

    Raises:
        ValueError: As `calibrate`.
    """
    settings = calibration.settings
    told: dict[str, Any] = {
        "output": defence.output,
        "budget": max(calibration.budget, 1 / len(images)),
        "seed": settings.seed,
        "messages": settings.messages,
        "steps": settings.steps,
        "small_step_share": calibration.small_step_share,
        "soft_labels": settings.soft_labels,
        "temperature": settings.temperature,
        "border_weight": settings.border_weight,
        "ord": settings.ord,
    }
    return calibrate(defence.classifier, images, **{**told, **changed})
