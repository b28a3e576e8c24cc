"""Detectors in directories of their own, each with its classifier beside it."""

import json
from pathlib import Path

import keras

from keras_traps.detectors.base import RECORD, ClassifierDetector
from keras_traps.detectors.feature_squeezing import FeatureSqueezing
from keras_traps.detectors.lid import LID
from keras_traps.detectors.magnet import MagNet
from keras_traps.detectors.taboo_trap import TabooTrap
from keras_traps.detectors.trapdoor import Trapdoor

DETECTORS: dict[str, type[ClassifierDetector]] = {
    one.__name__: one for one in (FeatureSqueezing, MagNet, LID, Trapdoor, TabooTrap)
}
"""The detectors of others, by name."""

CLASSIFIER = "classifier.keras"
"""The file of a detector's classifier, where it was saved in the same directory."""


def load(
    directory: str | Path, classifier: keras.Model | None = None
) -> ClassifierDetector:
    """Reads a saved detector of any kind in `DETECTORS`.

    Args:
        directory: Where `save` wrote it to.
        classifier: The classifier that it is for. Defaults to `None`: the file
            `classifier.keras` beside it.

    Returns:
        The detector, with its thresholds.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, the detector is of an unknown kind or for a
            classifier with other weights.
    """
    directory = Path(directory)
    text = (directory / RECORD).read_text(encoding="utf-8")
    try:
        kind = json.loads(text)["detector"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{directory} holds no saved detector: {error!r}") from error
    if kind not in DETECTORS:
        raise ValueError(
            f"The detector in {directory} is of an unknown kind: expected one of "
            f"{', '.join(DETECTORS)}, received {kind}."
        )
    if classifier is None:
        path = directory / CLASSIFIER
        if not path.is_file():
            raise FileNotFoundError(f"There is no classifier {path}.")
        classifier = keras.saving.load_model(path, compile=False)
    return DETECTORS[kind].load(directory, classifier)
