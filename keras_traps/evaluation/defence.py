"""What an evaluation attacks: a classifier with its traps and analyzers."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras

from keras_traps._checks import FloatArray
from keras_traps.attractors import ForensicAnalyzer, TrapSettings, inject
from keras_traps.attractors.integration import check_recovery_classifier
from keras_traps.models.outputs import Output


@dataclasses.dataclass(frozen=True)
class Defence:
    """A classifier with its traps.

    Args:
        classifier: The undefended classifier C.
        output: What C returns.
        trapped: The trapped model M.
        analyzers: A fitted analyzer by nominal false-positive rate. The integrated
            model is made with the one of the largest rate.
        recovery_weight: How much W counts beside C in the integrated model's
            `"difference"`; see `keras_traps.layers.DetectRecover`. Defaults to `1.0`.
        recovery_classifier: What the integrated model asks where it recovers a class by
            a classifier's answer; see `keras_traps.integrate`. Defaults to `None`, C.
    """

    classifier: keras.Model
    output: Output
    trapped: keras.Model
    analyzers: Mapping[float, ForensicAnalyzer]
    recovery_weight: float = 1.0
    recovery_classifier: keras.Model | None = None

    @property
    def main_analyzer(self) -> ForensicAnalyzer:
        """The analyzer of the largest false-positive rate."""
        return self.analyzers[max(self.analyzers)]


def defend(
    classifier: keras.Model,
    settings: TrapSettings,
    images: FloatArray,
    *,
    fprs: Sequence[float] = (0.05, 0.005),
    recovery_weight: float = 1.0,
    recovery_classifier: keras.Model | None = None,
) -> Defence:
    """Traps a classifier and fits an analyzer for each false-positive rate.

    Args:
        classifier: A built classifier.
        settings: The traps' constants.
        images: `(images, ...)`, float32, in [0, 1]: clean images for the thresholds.
        fprs: Nominal false-positive rates. Defaults to `(0.05, 0.005)`, the paper's.
        recovery_weight: See `Defence`. Defaults to `1.0`.
        recovery_classifier: See `Defence`. Defaults to `None`.

    Returns:
        The defence.

    Raises:
        TypeError: If `recovery_classifier` is not a Keras model.
        ValueError: If there are no rates, or too few images for one of them, or
            `recovery_classifier` takes or returns something else than `classifier`.
    """
    if not fprs:
        raise ValueError(
            "Invalid value for argument `fprs`. Expected at least one rate. "
            f"Received: fprs={tuple(fprs)}"
        )
    trapped = inject(classifier, settings)
    if recovery_classifier is not None:
        check_recovery_classifier(recovery_classifier, classifier)
    analyzers = {fpr: ForensicAnalyzer(trapped) for fpr in fprs}
    correlations = next(iter(analyzers.values())).correlations(images)
    for fpr, analyzer in analyzers.items():
        analyzer.fit_correlations(correlations, fpr=fpr)
    return Defence(
        classifier,
        settings.output,
        trapped,
        analyzers,
        recovery_weight,
        recovery_classifier,
    )
