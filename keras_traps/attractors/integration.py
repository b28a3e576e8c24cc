"""Joins a trapped model and its analyzer into one model."""

import keras

from keras_traps.attractors.forensics import ForensicAnalyzer
from keras_traps.attractors.injection import decoder_of, logits_of
from keras_traps.layers import DetectRecover
from keras_traps.models.forms import one_column


def integrate(
    trapped: keras.Model, analyzer: ForensicAnalyzer, *, differentiable: bool = True
) -> keras.Model:
    """Makes the classify-detect-recover model M_(d,r).

    Args:
        trapped: A trapped model from `inject`.
        analyzer: An analyzer that was fitted for it.
        differentiable: Whether the recovered answer has a gradient, see
            `keras_traps.layers.DetectRecover`. Defaults to `True`.

    Returns:
        A model of the same input and output as `trapped`: its answer where the input
        looks clean, the recovered class where it looks attacked. It shares the layers
        of `trapped`.

    Raises:
        ValueError: If `trapped` has no QIM decoder, the analyzer was fitted for another
            one, or `differentiable` is neither `True` nor `False`.
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
    total = trapped.get_layer("normalized_sum")
    answer = DetectRecover(
        thresholds.upper,
        thresholds.lower,
        thresholds.deviation,
        thresholds.lead,
        differentiable,
        name="detect_recover",
    )([total.output, total.input[1], logits_of(trapped)])
    if trapped.output_shape[1] == 1:
        answer = one_column(answer)
    return keras.Model(trapped.input, answer, name=f"integrated_{trapped.name}")
