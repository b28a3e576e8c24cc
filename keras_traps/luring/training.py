"""The training of M, of P and of the baselines, in steps that can be gone on with."""

import io
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tqdm

from keras_traps._checks import FloatArray, IntArray, check_count, check_number
from keras_traps._files import keep_settings, make_writable, write_atomically
from keras_traps.datasets import Dataset
from keras_traps.layers import LuringInput
from keras_traps.luring.classifier import (
    LuredClassifier,
    batch_order,
    batches,
    frozen_answers,
)
from keras_traps.luring.losses import LuringLoss
from keras_traps.luring.schedules import (
    LURE_RECIPES,
    LureRecipe,
    Schedule,
    Variant,
    authors_schedule,
    check_known,
)
from keras_traps.models.architectures import VictimRecipe
from keras_traps.models.inference import inner_layers, predict
from keras_traps.models.outputs import Output
from keras_traps.models.training import compile_classifier, hold_out

__all__ = [
    "LURE_RECIPES",
    "Backup",
    "LureRecipe",
    "Picked",
    "Schedule",
    "Trained",
    "Variant",
    "authors_schedule",
    "check_start",
    "join",
    "make_lure",
    "train_target",
    "train_variant",
    "untrained",
]

MakeData = Callable[[int, int], tf.data.Dataset]
"""From a first step and the one after the last to the batches of the steps between."""

Move = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From the number of a batch and its images to images of the same shape."""

# What a variant is trained on, of images, what goes with them, and whether they are
# moved: what M answers depends on that, and it is asked at every step.
_VIEWS: dict[str, Callable[[tf.Tensor, Any, bool], Any]] = {
    "stack": lambda images, labels, _: (images, labels),
    "auto": lambda images, *_: (images, images),
    "ce": lambda images, answers, moved: images if moved else (images, answers),
    "luring": lambda images, answers, moved: images if moved else (images, answers),
}

_STATE, _SETTINGS = "state.npz", "settings.json"


class Picked(NamedTuple):
    """Which state of a training was kept.

    Args:
        step: After how many steps.
        score: The share of the images that were held out to which it answers right.
    """

    step: int
    score: float


class Trained(NamedTuple):
    """What `train_variant` returns.

    Args:
        model: P as a model from images to images; of `"stack"` M∘P, from images to
            logits.
        picked: Which state it is; `None` for the last.
    """

    model: keras.Model
    picked: Picked | None


class Backup:
    """A folder that holds the state of one training, while it lasts.

    Keras' `BackupAndRestore` writes weights and epoch in place, one after the other:
    killed between the two, a training would make the same steps twice. It knows
    neither the best weights so far nor how often dropout has drawn. Here all of it is
    one file, replaced in one step.

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
        self, folder: Path, settings: dict[str, Any], *, resume: bool = False
    ) -> None:
        make_writable(folder, name="backup")
        self._folder, self._path = folder, folder / _STATE
        self._began, self._earlier = time.monotonic(), 0.0
        if not self._path.exists():
            # Where nothing was saved nothing is lost.
            (folder / _SETTINGS).unlink(missing_ok=True)
        keep_settings(folder / _SETTINGS, settings, resume=resume)
        if self._path.exists():
            with np.load(self._path) as found:
                self._earlier = float(found["seconds"])

    @property
    def seconds(self) -> float:
        """How long the training took up to now, earlier pieces of it included.

        Of a piece that was killed the time after its last save is not in it, nor is
        what it did then.
        """
        return self._earlier + time.monotonic() - self._began

    def load(self) -> dict[str, npt.NDArray[Any]]:
        """Returns what was saved last, by name; `{}` for nothing."""
        if not self._path.exists():
            return {}
        with np.load(self._path) as found:
            return dict(found)

    def save(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Saves arrays, and the time that the training took, in one step.

        Args:
            state: By name.
        """
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, seconds=self.seconds, **state)
        write_atomically(self._path, buffer.getvalue())

    def discard(self) -> None:
        """Deletes the folder: the training is done, its model is saved."""
        shutil.rmtree(self._folder)


def train_target(
    model: keras.Model,
    data: Dataset,
    recipe: VictimRecipe,
    *,
    steps: int | None = None,
    seed: int = 0,
    backup: Backup | None = None,
    verbose: bool = True,
) -> Picked:
    """Trains a classifier M in place, as the authors do, and leaves it at its best.

    Args:
        model: From images in [0, 1] to logits; built under the same seed.
        data: The training images. A share of them, chosen at random, only says which
            epoch is the best.
        recipe: The authors' settings.
        steps: How many steps in place of the recipe's epochs; its boundaries are
            scaled. Defaults to the recipe's.
        seed: Of the order of images, their moves and the validation images. Defaults
            to `0`.
        backup: Where its state is saved. Defaults to nowhere.
        verbose: Whether to show a bar. Defaults to `True`.

    Returns:
        The best epoch's last step, and its accuracy on the validation images.

    Raises:
        ValueError: If the recipe holds out no image, or all, or a number is out of
            its range.
    """
    data, held = _validation(data, recipe.validation_split, seed)
    epoch = max(1, len(data) // recipe.batch_size)
    schedule = Schedule(
        epoch * recipe.epochs,
        recipe.batch_size,
        recipe.learning_rates,
        tuple(epoch * boundary for boundary in recipe.boundaries),
    )
    schedule = schedule if steps is None else schedule.scaled(steps)
    compile_classifier(model, schedule.optimizer())
    move = _mover(recipe.rotation, recipe.shift, seed)
    best = _Best(model, held.images, held.labels, answering=model)
    train_in_stages(
        model,
        _make_data(data.images, data.labels, schedule, seed, move, _VIEWS["stack"]),
        steps=schedule.steps,
        stage=epoch,
        best=best,
        backup=backup,
        verbose=verbose,
    )
    return best.restore()


def train_variant(
    variant: Variant,
    target: keras.Model,
    data: Dataset,
    schedule: Schedule,
    *,
    output: Output,
    width: float = 1.0,
    loss: LuringLoss = "luring",
    luring_weight: float = 1.0,
    rotation: float = 0.0,
    shift: float = 0.0,
    validation_split: float = 0.0,
    start: keras.Model | None = None,
    seed: int = 0,
    stage: int = 500,
    backup: Backup | None = None,
    verbose: bool = True,
) -> Trained:
    """Trains one of the paper's four ways to put a network before a classifier.

    Args:
        variant: Which.
        target: M, frozen; `"stack"` takes its architecture only.
        data: The training images; only `"stack"` looks at their labels.
        schedule: How long, and at what rates.
        output: What M returns; `"stack"` needs `"logits"`.
        width: Multiplies the filters of P. Defaults to `1.0`.
        loss: What `"luring"` is trained with. Defaults to `"luring"`.
        luring_weight: lambda. Defaults to `1.0`.
        rotation: The largest random turn of an image in degrees, either way, at least
            0. For `"ce"` and `"luring"` M is asked at every step where images are
            moved. Defaults to `0.0`.
        shift: The largest random shift, as a share of height and width, either way, at
            least 0 and below 1. Defaults to `0.0`.
        validation_split: The share of images that are only looked at after each stage:
            the P is kept whose M∘P gives M's answer to most of them, or for `"stack"`
            the true class. At least 0 and below 1; 0 keeps the last P, as does
            `"auto"` with any. Defaults to `0.0`.
        start: A trained P of the same width, such as that of `"auto"`, whose weights P
            has at first; or for `"stack"` a whole M∘P of the same. Where one is picked,
            it is one of those to pick from. Defaults to `None`: new weights.
        seed: Of the first weights, the dropout, the order of images, their moves and
            the choice of those that are held out. Defaults to `0`.
        stage: After how many steps the state is saved, and looked at. Defaults to
            `500`.
        backup: Where. Defaults to nowhere.
        verbose: Whether to show a bar. Defaults to `True`.

    Returns:
        The model, and which state of it was picked.

    Raises:
        ValueError: If M is trainable, or is not what `output` says, or `"stack"` is
            asked for where M does not return logits, or `start` has other weights
            than P, or an argument is unknown or out of its range.
    """
    check_known("variant", variant, get_args(Variant))
    check_number(validation_split, name="validation_split", at_least=0.0, below=1.0)
    check_count("stage", stage)
    check_count("seed", seed, at_least=0)
    move = _mover(rotation, shift, seed)
    keras.utils.set_random_seed(seed)
    lure = make_lure(variant, data.name, width=width)
    trained: keras.Model
    result: keras.Model
    beginners: list[keras.layers.Layer] = [lure]
    if variant == "stack":
        trained = result = _stack(target, lure, output)
        beginners.append(trained)
        compile_classifier(trained, schedule.optimizer())
    elif variant == "auto":
        inputs = keras.Input(target.input_shape[1:], name="image")
        trained = result = keras.Model(inputs, lure(inputs), name="lure")
        trained.compile(schedule.optimizer(), "binary_crossentropy", jit_compile=False)
    else:
        trained = LuredClassifier(target, lure, output=output)
        loss = "cross_entropy" if variant == "ce" else loss
        weight = luring_weight if loss == "luring" else None
        trained.compile(schedule.optimizer(), loss, luring_weight=weight)
        result = trained.to_lure_model()
    if start is not None:
        _that_fits(start, beginners).set_weights(start.get_weights())
    best = None
    if validation_split and variant != "auto":
        data, held = _validation(data, validation_split, seed)
        if variant == "stack":
            best = _Best(result, held.images, held.labels, answering=result)
        else:
            right = predict(target, held.images).argmax(axis=1)
            whole = join(result, target)
            best = _Best(result, held.images, right, answering=whole)
        if start is not None:
            best.look(0)
    told: Any = data.labels
    if variant in ("ce", "luring") and not move:
        told = frozen_answers(target, data.images, output=output)._asdict()
    train_in_stages(
        trained,
        _make_data(data.images, told, schedule, seed, move, _VIEWS[variant]),
        steps=schedule.steps,
        stage=stage,
        best=best,
        backup=backup,
        verbose=verbose,
    )
    return Trained(result, best.restore() if best else None)


def train_in_stages(
    model: keras.Model,
    make_data: MakeData,
    *,
    steps: int,
    stage: int,
    best: "_Best | None",
    backup: Backup | None,
    verbose: bool,
) -> None:
    """Trains a compiled model for a number of steps, with Keras' `fit`.

    What a step sees has to depend on its number alone, as with `batch_order`: Keras'
    own shuffling begins anew where a training is gone on with. Then one that was
    killed, and went on from its backup, ends with the same weights.
    """
    model.optimizer.build(model.trainable_variables)
    # Those of the random layers tell how often they have drawn.
    variables = [*model.variables, *model.optimizer.variables]
    state = backup.load() if backup else {}
    if state:
        for index, variable in enumerate(variables):
            variable.assign(state[f"v{index}"])
    if state and best:
        best.load(state)
    done = int(state.get("done", 0))
    with tqdm.tqdm(
        total=steps, initial=done, unit="step", smoothing=0.05, disable=not verbose
    ) as bar:
        count = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_, **__: bar.update()
        )
        while done < steps:
            last = min(done + stage, steps)
            history = model.fit(
                make_data(done, last), shuffle=False, verbose=0, callbacks=[count]
            ).history
            bar.set_postfix({name: f"{history[name][-1]:.4g}" for name in history})
            done = last
            if best:
                best.look(done)
            if backup:
                arrays = {f"v{i}": _array(one) for i, one in enumerate(variables)}
                kept = best.state() if best else {}
                backup.save({"done": np.array(done), **kept, **arrays})


class _Best:
    """The weights that answered right most often; of equal ones, the first.

    Unlike Keras' `ModelCheckpoint`, it knows after a kill what was best before, and may
    ask another model than the one whose weights it keeps.
    """

    def __init__(
        self,
        model: keras.Model,
        images: FloatArray,
        right: IntArray,
        *,
        answering: keras.Model,
    ) -> None:
        self._model, self._images, self._right = model, images, right
        self._answering = answering
        self._picked, self._weights = Picked(0, -1.0), model.get_weights()

    def look(self, step: int) -> None:
        answers = predict(self._answering, self._images).argmax(axis=1)
        score = float((answers == self._right).mean())
        if score > self._picked.score:
            self._picked, self._weights = Picked(step, score), self._model.get_weights()

    def state(self) -> dict[str, npt.NDArray[Any]]:
        named = {f"best{index}": one for index, one in enumerate(self._weights)}
        return {"picked": np.array(self._picked), **named}

    def load(self, state: dict[str, npt.NDArray[Any]]) -> None:
        step, score = state["picked"]
        self._picked = Picked(int(step), float(score))
        self._weights = [state[f"best{i}"] for i in range(len(self._weights))]

    def restore(self) -> Picked:
        self._model.set_weights(self._weights)
        return self._picked


def make_lure(variant: Variant, dataset: str, *, width: float = 1.0) -> LuringInput:
    """Makes the component P of a variant, untrained.

    Args:
        variant: Which; it decides the dropout: the authors use one for luring, and on
            CIFAR-10 for C_E too.
        dataset: The data set, which decides the architecture.
        width: Multiplies its filters. Defaults to `1.0`.

    Returns:
        The layer, not built.
    """
    preset = LURE_RECIPES[dataset].preset
    drops = variant == "luring" or (variant == "ce" and preset == "cifar10")
    # A name of its own, the same in every file.
    return LuringInput(preset, width=width, dropout=None if drops else 0.0, name="lure")


def check_start(
    start: keras.Model, variant: Variant, target: keras.Model, lure: LuringInput
) -> None:
    """Checks that a training can begin with another one's weights.

    Args:
        start: What was trained: P, or for `"stack"` also a whole M∘P.
        variant: What is to be trained.
        target: M, or for `"stack"` a classifier of its architecture.
        lure: P; it is built.

    Raises:
        ValueError: If the weights of the two have other shapes.
    """
    lure.build(target.input_shape)
    whole = [_stack(target, lure, "logits")] if variant == "stack" else []
    _that_fits(start, [lure, *whole])


def join(lure: keras.Model, target: keras.Model) -> keras.Model:
    """Puts a trained P before M.

    Args:
        lure: P, from images to images.
        target: M.

    Returns:
        M∘P: from images to what M returns, both called with `training=False` unless it
        is called with `training=True` itself.
    """
    inputs = keras.Input(target.input_shape[1:], name="image")
    mapped = lure(inputs, training=False)
    return keras.Model(inputs, target(mapped, training=False), name="lured")


def untrained(target: keras.Model) -> keras.Model:
    """Makes a classifier of M's architecture, with new weights that can be trained.

    Args:
        target: M, frozen or not; it stays as it is.

    Returns:
        A model of its own, drawn by Keras' global seed.
    """
    # Not a clone: that has the optimizer of a compiled M, built for frozen weights, in
    # whose place none fits when it is loaded from a file.
    fresh = type(target).from_config(target.get_config())
    # The layers are as frozen as those that they were made after, and the model does
    # not hand its own `trainable` on to them.
    fresh.trainable = True
    for layer in inner_layers(fresh):
        layer.trainable = True
    return fresh


def _stack(target: keras.Model, lure: LuringInput, output: Output) -> keras.Model:
    if output != "logits":
        raise ValueError(
            "Invalid value for argument `output`. Expected a classifier that returns "
            f'"logits" for the variant "stack". Received: output={output!r}'
        )
    inputs = keras.Input(target.input_shape[1:], name="image")
    return keras.Model(inputs, untrained(target)(lure(inputs)), name="stack")


def _that_fits(
    start: keras.Model, beginners: Sequence[keras.layers.Layer]
) -> keras.layers.Layer:
    """Returns the first that has weights of the same shapes."""
    found = _shapes(start)
    for beginner in beginners:
        if _shapes(beginner) == found:
            return beginner
    raise ValueError(
        "Invalid value for argument `start`. Expected a trained P with weights of the "
        f"shapes {_shapes(beginners[0])}. Received: one with {found}"
    )


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _validation(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    count = int(len(data) * share)
    rest, held = hold_out(data, min(count, len(data) - 1), seed=seed)
    if held is None or count == len(data):
        raise ValueError(
            "Invalid value for argument `validation_split`. Expected a share that "
            f"holds out some of {len(data)} images and not all. Received: {share}"
        )
    return rest, held


def _make_data(
    images: FloatArray,
    told: Any,
    schedule: Schedule,
    seed: int,
    move: Move | None,
    view: Callable[[tf.Tensor, Any, bool], Any],
) -> MakeData:
    """Returns what makes the batches of a training, each by the number of its step."""
    order = batch_order(len(images), schedule.batch_size, schedule.steps, seed=seed)
    # Once for all stages: a data set copies the arrays that it is cut from, and the
    # copy lives until Python looks for cycles.
    held = tf.nest.map_structure(tf.convert_to_tensor, (images, told))

    def make(first: int, last: int) -> tf.data.Dataset:
        data = batches(*held, order=order[first:last])
        if move is not None:
            numbered = data.enumerate(first)
            data = numbered.map(lambda number, pair: (move(number, pair[0]), pair[1]))
        return data.map(lambda images, told: view(images, told, move is not None))

    return make


def _mover(rotation: float, shift: float, seed: int) -> Move | None:
    """Returns what turns and shifts images, each batch by its number; or nothing."""
    check_number(rotation, name="rotation", at_least=0.0)
    check_number(shift, name="shift", at_least=0.0, below=1.0)
    moving: list[keras.layers.Layer] = []
    # What comes in repeats the border, as in the authors' code.
    if rotation:
        turn = rotation / 360.0
        moving.append(keras.layers.RandomRotation(turn, fill_mode="nearest"))
    if shift:
        moving.append(keras.layers.RandomTranslation(shift, shift, fill_mode="nearest"))
    seeds = np.random.SeedSequence(seed).generate_state(len(moving))

    def move(number: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        for layer, own in zip(moving, seeds, strict=True):
            # Where a training goes on, the numbers do. A shift draws twice.
            layer.generator.state.assign(tf.stack([own, 2 * number]))
            images = layer(images, training=True)
        return images

    return move if moving else None


def _array(variable: keras.Variable) -> npt.NDArray[Any]:
    value = keras.ops.convert_to_numpy(variable)
    # A file of NumPy's does not know this one.
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value
