"""Joins a trapped model and its analyzer into one model."""

import math

import keras

from keras_traps.attractors.forensics import ForensicAnalyzer
from keras_traps.attractors.injection import decoder_of
from keras_traps.layers import DetectRecover
from keras_traps.layers.detect_recover import Recovery, needs_classifier

# Equation 3 falls to A2 tanh(-1) and no further.
_LOWEST = math.tanh(-1.0)

# The share of the way there at which a low correlation is a trap's doing. On CIFAR-10
# attacks that step about the clean image came to 0.30, those that went in from 0.46.
_DEPTH = 0.35

# The share of the way to A2 at which a high one is. They came to 0.64, and to 0.93.
_HEIGHT = 0.75


def integrate(
    trapped: keras.Model,
    analyzer: ForensicAnalyzer,
    *,
    softness: float = 0.0,
    recovery: Recovery = "correlation",
    weight: float = 1.0,
    depth: float | None = None,
    height: float | None = None,
) -> keras.Model:
    """Makes the classify-detect-recover model M_(d,r).

    Args:
        trapped: A trapped model from `inject`.
        analyzer: An analyzer that was fitted for it.
        softness: See `keras_traps.layers.DetectRecover`. Defaults to `0.0`.
        recovery: See `keras_traps.layers.DetectRecover`. Defaults to `"correlation"`.
        weight: See `keras_traps.layers.DetectRecover`. Defaults to `1.0`.
        depth: See `keras_traps.layers.DetectRecover`. Defaults to `None`: 0.35 of the
            way from L to the least correlation that the decoder has, -0.76 A2.
        height: See `keras_traps.layers.DetectRecover`. Defaults to `None`: 0.75 of the
            way from U to the largest, A2.

    Returns:
        A model of the same input and output as `trapped`: its answer where the input
        looks clean, the recovered class where it looks attacked. It shares the layers
        of `trapped`.

    Raises:
        ValueError: If `trapped` has no QIM decoder, or the analyzer was fitted for
            another one; if `depth` is not above 0 or
            `height` is below 0.
        RuntimeError: If the analyzer was not fitted.

    Example:
    >>> keras_traps.integrate(trapped, analyzer).predict(images)

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section III-B.
    """
    decoder = decoder_of(trapped)
    if decoder.fingerprint != analyzer.decoder.fingerprint:
        raise ValueError(
            "Invalid value for argument `analyzer`. Expected one that was fitted for "
            f"the decoder of {trapped.name!r}, fingerprint {decoder.fingerprint[:12]}. "
            f"Received fingerprint {analyzer.decoder.fingerprint[:12]}."
        )
    thresholds = analyzer.thresholds
    outputs, correlations = trapped.get_layer("normalized_sum").input
    seen = [trapped.output, correlations]
    if needs_classifier(recovery):
        seen.append(outputs)
    answer = DetectRecover(
        thresholds.upper,
        thresholds.lower,
        thresholds.deviation,
        softness,
        recovery,
        weight,
        _DEPTH * (thresholds.lower - decoder.a2 * _LOWEST) if depth is None else depth,
        _HEIGHT * (decoder.a2 - thresholds.upper) if height is None else height,
        name="detect_recover",
    )(seen)
    return keras.Model(trapped.input, answer, name=f"integrated_{trapped.name}")
