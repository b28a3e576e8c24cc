"""Training in stages, each saved, so that one that was killed goes on where it was."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tqdm

from keras_traps._files import make_writable, write_atomically

_STATE = "state.weights.h5"
_SETTINGS = "settings.json"
_SECONDS = "seconds.json"

MakeData = Callable[[int, int], tf.data.Dataset]
"""From a first step and the one after the last to the batches of the steps between."""


class Backup:
    """A folder that holds the state of one training, while it lasts.

    Args:
        folder: Made if it does not exist.
        settings: All that the training depends on, as plain data.
        resume: Whether to go on with what is there already. Defaults to `False`.

    Raises:
        OSError: If the folder cannot be written to.
        FileExistsError: If it holds the state of a training and `resume` is false.
        ValueError: If that training has other settings; the message names them.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        resume: bool = False,
    ) -> None:
        self._folder = folder
        self._began = time.monotonic()
        make_writable(folder, name="backup")
        wanted = json.loads(json.dumps(settings))
        path = folder / _SETTINGS
        # Where nothing was saved nothing is lost.
        if not (path.exists() and (folder / _STATE).exists()):
            if path.exists():
                _empty(folder)
            write_atomically(path, json.dumps(wanted, indent=1).encode())
            return
        if not resume:
            raise FileExistsError(
                f"{folder} holds a training that was interrupted. Go on with it by "
                "`--resume`, or delete it."
            )
        found = json.loads(path.read_text(encoding="utf-8"))
        names = sorted({*found, *wanted})
        different = [name for name in names if found.get(name) != wanted.get(name)]
        if different:
            raise ValueError(
                f"The training in {folder} was started with other settings: "
                f"{', '.join(different)} differ. Delete it, or give the same."
            )

    def restore(self, model: keras.Model) -> int:
        """Loads the last state that was saved, weights and optimizer.

        Args:
            model: A compiled model.

        Returns:
            How many steps it has made.
        """
        # Before it is built an optimizer has nothing to load into.
        model.optimizer.build(model.trainable_variables)
        if (self._folder / _STATE).exists():
            model.load_weights(self._folder / _STATE)
        return int(model.optimizer.iterations)

    @property
    def seconds(self) -> float:
        """How long the training took up to now, earlier pieces of it included.

        Of a piece that was killed the time after its last save is not in it, nor is
        what it did then.
        """
        path = self._folder / _SECONDS
        earlier = json.loads(path.read_text("utf-8")) if path.exists() else 0.0
        return float(earlier) + time.monotonic() - self._began

    def save(self, model: keras.Model) -> None:
        """Saves the state, in one step, and the time that it took.

        Args:
            model: A compiled model.
        """
        save_atomically(model.save_weights, self._folder / _STATE)
        seconds, self._began = self.seconds, time.monotonic()
        write_atomically(self._folder / _SECONDS, json.dumps(seconds).encode())

    def path(self, name: str) -> Path:
        """Returns where to keep a file that goes when the training is done.

        Args:
            name: The file's name.

        Returns:
            Its path.
        """
        return self._folder / name

    def discard(self) -> None:
        """Deletes the folder: the training is done, its model is saved."""
        shutil.rmtree(self._folder)


def _empty(folder: Path) -> None:
    """Deletes what a training left behind that was killed before its first save."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


def train_in_stages(
    model: keras.Model,
    make_data: MakeData,
    *,
    steps: int,
    stage: int = 500,
    backup: Backup | None = None,
    after_stage: Callable[[int], None] | None = None,
    verbose: bool = True,
) -> dict[str, float]:
    """Trains a compiled model for a number of steps, with `fit`.

    What a step sees has to depend on its number alone, as with `batch_order`. Then a
    training that was killed, and went on from its backup, ends with the same weights.

    Args:
        model: A compiled Keras model; if it has dropout, built under the same seed.
        make_data: Makes the batches of some steps.
        steps: How many steps in all, those of the backup among them.
        stage: After how many steps the state is saved. Defaults to `500`.
        backup: Where; nothing is saved where it is `None`. Defaults to `None`.
        after_stage: Called with the number of steps, before the state is saved.
            Defaults to `None`.
        verbose: Whether to show a bar with rate and time left. Defaults to `True`.

    Returns:
        The metrics of the last stage, by name.
    """
    done = backup.restore(model) if backup else 0
    logs: dict[str, float] = {}
    with tqdm.tqdm(
        total=steps, initial=done, unit="step", smoothing=0.05, disable=not verbose
    ) as bar:
        count = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: bar.update()  # noqa: ARG005
        )
        while done < steps:
            last = min(done + stage, steps)
            _draw_from(model, done)
            history = model.fit(
                make_data(done, last), shuffle=False, verbose=0, callbacks=[count]
            ).history
            logs = {name: float(values[-1]) for name, values in history.items()}
            bar.set_postfix({name: f"{value:.4g}" for name, value in logs.items()})
            done = last
            if after_stage:
                after_stage(done)
            if backup:
                backup.save(model)
    return logs


def _draw_from(model: keras.Model, step: int) -> None:
    """Lets dropout draw what it draws after so many steps: no file of weights says."""
    known = {id(weight) for weight in model.weights}
    for variable in model.variables:
        if id(variable) not in known and variable.name == "seed_generator_state":
            # The seed, and how often it was drawn from.
            seed = keras.ops.convert_to_numpy(variable)[0]
            variable.assign(np.array([seed, step], seed.dtype))


def save_atomically(write: Callable[[Path], None], path: Path) -> None:
    """Lets Keras write a file beside its place, and renames it.

    Args:
        write: Such as `model.save`; takes a path with the same ending.
        path: Where to; a file there is replaced.
    """
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
