"""The files of classifiers that recipes are given by a flag."""

from pathlib import Path

import keras
from absl import app

from keras_traps.models import cifar10_resnet20, load_deepsec_weights, mnist_cnn

_DEEPSEC = {"mnist": mnist_cnn, "cifar10": cifar10_resnet20}


def load_classifier(dataset: str, path: Path, *, flag: str = "--model") -> keras.Model:
    """Loads a classifier that was trained before.

    Args:
        dataset: The data set's name, which chooses DEEPSEC's architecture.
        path: A `.keras` file, or a `.npz` state dict of DEEPSEC.
        flag: The flag that names it, for errors. Defaults to `"--model"`.

    Returns:
        The classifier.

    Raises:
        app.UsageError: If there is no such file or Keras cannot load it, or DEEPSEC has
            no model for the data set.
    """
    if not path.is_file():
        raise app.UsageError(f"{flag} names no file: {path}")
    if path.suffix != ".npz":
        # Without its optimizer: it is not trained any more, or in another way.
        try:
            return keras.saving.load_model(path, compile=False)
        except (ValueError, OSError) as error:
            raise app.UsageError(f"{flag} cannot be read: {path} ({error})") from error
    if dataset not in _DEEPSEC:
        raise app.UsageError(
            f"DEEPSEC has no model for {dataset}; it has {', '.join(_DEEPSEC)}."
        )
    return load_deepsec_weights(_DEEPSEC[dataset](), path)
