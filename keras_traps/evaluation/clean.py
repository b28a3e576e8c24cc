"""The models on clean test images."""

from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.paper import paper_clean
from keras_traps.evaluation.results import CleanResults
from keras_traps.models.inference import predict
from keras_traps.rates import Rate


def clean_results(
    defence: Defence, test: Dataset, outputs: FloatArray, correlations: FloatArray
) -> CleanResults:
    """Asks the models and the analyzers about images that no attack changed.

    Args:
        defence: The classifier and its traps.
        test: The test images.
        outputs: `(images, classes)`: what C returned for them.
        correlations: The same shape: W of them.

    Returns:
        Accuracy and false positives.
    """
    trapped = predict(defence.trapped, test.images)
    paper_classifier, paper_trapped = paper_clean(test.name)
    count = len(test)
    return CleanResults(
        accuracy_classifier=Rate(
            int((outputs.argmax(axis=1) == test.labels).sum()), count
        ),
        accuracy_trapped=Rate(
            int((trapped.argmax(axis=1) == test.labels).sum()), count
        ),
        false_positives={
            fpr: Rate(int(analyzer.judge(correlations).is_adversarial.sum()), count)
            for fpr, analyzer in defence.analyzers.items()
        },
        paper_accuracy_classifier=paper_classifier,
        paper_accuracy_trapped=paper_trapped,
        recovery_classifier=_right_too(defence, test, outputs),
    )


def _right_too(defence: Defence, test: Dataset, outputs: FloatArray) -> Rate | None:
    if defence.recovery_classifier is None:
        return None
    asked = predict(defence.recovery_classifier, test.images)
    right, too = (found.argmax(axis=1) == test.labels for found in (outputs, asked))
    return Rate(int((right & too).sum()), int(right.sum()))
