"""Joins a trapped model and its analyzer into one model."""

import math

import keras
import numpy as np

from keras_traps.attractors.forensics import ForensicAnalyzer
from keras_traps.attractors.injection import decoder_of
from keras_traps.attractors.thresholds import Thresholds
from keras_traps.layers import DetectRecover, QIMDecoder, SoftLabels
from keras_traps.layers.detect_recover import WIDTH, Recovery, needs_classifier
from keras_traps.models.graphs import as_graph
from keras_traps.models.outputs import check_classifier, output_of
from keras_traps.models.probe import answers_to_noise

# Equation 3 falls to A2 tanh(-1) and no further.
_LOWEST = math.tanh(-1.0)

# The share of the way there at which a low correlation is a trap's doing: attacks that
# step about a clean image of CIFAR-10 stop short of it, those that go in do not.
_DEPTH = 0.35

# The share of the way to A2 at which a high one is.
_HEIGHT = 0.75

DEPTH_RULE = [_DEPTH, _HEIGHT, WIDTH, "logits"]
"""What `recovery="depth"` depends on beside its arguments: records keep it."""


def integrate(
    trapped: keras.Model,
    analyzer: ForensicAnalyzer,
    *,
    softness: float = 0.0,
    recovery: Recovery = "correlation",
    weight: float = 1.0,
    depth: float | None = None,
    height: float | None = None,
    recovery_classifier: keras.Model | None = None,
) -> keras.Model:
    """Makes the classify-detect-recover model M_(d,r).

    Args:
        trapped: A trapped model from `inject`.
        analyzer: An analyzer that was fitted for it.
        softness: See `keras_traps.layers.DetectRecover`. Defaults to `0.0`.
        recovery: See `keras_traps.layers.DetectRecover`. Defaults to `"correlation"`.
        weight: See `keras_traps.layers.DetectRecover`. Defaults to `1.0`.
        depth: See `keras_traps.layers.DetectRecover`. Defaults to `None`: for
            `recovery="depth"` 0.35 of the way from L to the least correlation that the
            decoder has, -0.76 A2.
        height: See `keras_traps.layers.DetectRecover`. Defaults to `None`: for
            `recovery="depth"` 0.75 of the way from U to the largest, A2.
        recovery_classifier: What is asked for C(x) where `"difference"` and `"depth"`
            recover a class: a classifier of the same images and classes, and of the
            same output as the one that was trapped, say one that random noise fools
            less. Where nothing is flagged M answers all the same. It has to have layers
            of its own for the result to be loaded from a `.keras` file. Defaults to
            `None`, the trapped classifier.

    Returns:
        A model of the same input and output as `trapped`: its answer where the input
        looks clean, the recovered class where it looks attacked. It shares the layers
        of `trapped`.

    Raises:
        ValueError: If `trapped` has no QIM decoder, or the analyzer was fitted for
            another one; if there is no way down from L; if `recovery_classifier` takes
            or returns something else than `trapped`, or is given for a recovery that
            asks no classifier; or as `keras_traps.layers.DetectRecover`.
        TypeError: If `recovery_classifier` is not a Keras model.
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
    if recovery == "depth":
        if depth is None:
            depth = _DEPTH * _way_down(thresholds, decoder)
        if height is None:
            # U may lie above A2, for it is set in standard deviations.
            height = max(0.0, _HEIGHT * (decoder.a2 - thresholds.upper))
    correlations = trapped.get_layer("normalized_sum").input[1]
    seen = [trapped.output, correlations]
    if recovery_classifier is not None:
        if not needs_classifier(recovery):
            raise ValueError(
                "Invalid value for argument `recovery_classifier`. Expected none for "
                f"recovery={recovery!r}, which asks no classifier. Received: "
                f"{getattr(recovery_classifier, 'name', recovery_classifier)!r}"
            )
        _, answers, _ = _parts_of_c(trapped)
        classifier = keras.Model(trapped.input, answers, name="classifier")
        check_recovery_classifier(recovery_classifier, classifier)
    if needs_classifier(recovery):
        seen.append(_classes_of(trapped, recovery_classifier, recovery))
    answer = DetectRecover(
        thresholds.upper,
        thresholds.lower,
        thresholds.deviation,
        softness,
        recovery,
        weight,
        depth,
        height,
        name="detect_recover",
    )(seen)
    return keras.Model(trapped.input, answer, name=f"integrated_{trapped.name}")


def _way_down(thresholds: Thresholds, decoder: QIMDecoder) -> float:
    way = thresholds.lower - decoder.a2 * _LOWEST
    if way <= 0:
        raise ValueError(
            "Invalid value for argument `analyzer`. Expected for recovery='depth' a "
            "threshold L above the least correlation that the decoder has, "
            f"{decoder.a2 * _LOWEST:g}. Received: lower={thresholds.lower:g}"
        )
    return way


def check_recovery_classifier(
    classifier: keras.Model, trapped_classifier: keras.Model
) -> None:
    """Refuses a classifier that cannot be asked for C(x) in place of C.

    Args:
        classifier: What is to be asked.
        trapped_classifier: C.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it takes or returns something else than C.
    """
    check_classifier(classifier, "as C", known=("as C",), name="recovery_classifier")
    expected = trapped_classifier.input_shape[1:], trapped_classifier.output_shape[1:]
    received = classifier.input_shape[1:], classifier.output_shape[1:]
    if not _fits(received[0], expected[0]) or received[1] != expected[1]:
        raise ValueError(
            "Invalid value for argument `recovery_classifier`. Expected images and "
            f"answers of the shapes of {trapped_classifier.name!r}, {expected}. "
            f"Received: {received}"
        )
    answers = answers_to_noise(classifier)
    kind = output_of(answers_to_noise(trapped_classifier))
    if not np.isfinite(answers).all() or output_of(answers) != kind:
        row = np.array2string(answers[0], precision=3, threshold=8)
        raise ValueError(
            "Invalid value for argument `recovery_classifier`. Expected one that "
            f"returns {kind}, as the classifier that was trapped, and finite ones. "
            f"Received: {classifier.name!r}, which returns {row} for an image of noise"
        )


def _classes_of(
    trapped: keras.Model, asked: keras.Model | None, recovery: Recovery
) -> keras.KerasTensor:
    """C(x) for the recovery, of C or of what is asked in its place."""
    summand, answers, head = _parts_of_c(trapped)
    # Cold soft labels are 0 in float32 for all but one class: the depth's second is
    # found in what they are made from, whose order is the same.
    cooled = recovery != "depth"
    if asked is None:
        return summand if cooled else answers
    answers = as_graph(asked, name="recovery_classifier")(trapped.input)
    return head(answers) if cooled and head is not None else answers


def _parts_of_c(
    trapped: keras.Model,
) -> tuple[keras.KerasTensor, keras.KerasTensor, SoftLabels | None]:
    """C(x) as it enters the sum, as C returns it, and the layer between, if any."""
    summand = trapped.get_layer("normalized_sum").input[0]
    # The layer's own `input` is that of its first call, which may be in another model.
    head, index, _ = summand._keras_history
    if not isinstance(head, SoftLabels):
        return summand, summand, None
    return summand, head._inbound_nodes[index].input_tensors[0], head


def _fits(shape: tuple[int | None, ...], needed: tuple[int | None, ...]) -> bool:
    """Whether a model of this shape takes the images, where it leaves sizes open."""
    return len(shape) == len(needed) and all(
        size in (None, wanted) for size, wanted in zip(shape, needed, strict=True)
    )
