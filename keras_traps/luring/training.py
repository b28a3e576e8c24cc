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
from keras_traps.luring.losses import LuringLoss, check_known
from keras_traps.luring.schedules import LURE_RECIPES, Schedule, Variant
from keras_traps.models.architectures import VictimRecipe
from keras_traps.models.inference import inner_layers, predict
from keras_traps.models.outputs import Output
from keras_traps.models.training import compile_classifier, hold_out

# From the number of a batch and its images to images of the same shape.
Move = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# What a variant is trained on, of images, what goes with them, and whether they are
# moved: what M answers depends on that, and it is asked at every step.
_VIEWS: dict[str, Callable[[tf.Tensor, Any, bool], Any]] = {
    "stack": lambda images, labels, _: (images, labels),
    "auto": lambda images, *_: (images, images),
    "ce": lambda images, answers, moved: images if moved else (images, answers),
    "luring": lambda images, answers, moved: images if moved else (images, answers),
}


class Picked(NamedTuple):
    """Which state of a training was kept."""

    step: int
    score: float


class Trained(NamedTuple):
    """What `train_variant` returns."""

    model: keras.Model
    picked: Picked | None


class Backup:
    """A folder that holds the state of one training, while it lasts."""

    # Keras' `BackupAndRestore` writes weights and epoch one after the other: killed
    # between the two, a training would make the same steps twice. It knows neither the
    # best weights so far nor how often dropout has drawn. Here all is one file.

    def __init__(
        self, folder: Path, settings: dict[str, Any], *, resume: bool = False
    ) -> None:
        make_writable(folder, name="backup")
        self._folder, self._path = folder, folder / "state.npz"
        if not self._path.exists():
            # Where nothing was saved nothing is lost.
            (folder / "settings.json").unlink(missing_ok=True)
        keep_settings(folder / "settings.json", settings, resume=resume)
        self._began = time.monotonic() - float(self.load().get("seconds", 0.0))

    @property
    def seconds(self) -> float:
        """How long the training took up to now; of a killed piece, up to its save."""
        return time.monotonic() - self._began

    def load(self) -> dict[str, npt.NDArray[Any]]:
        """Returns what was saved last, by name; `{}` for nothing."""
        if not self._path.exists():
            return {}
        with np.load(self._path) as found:
            return dict(found)

    def save(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Saves arrays, and the time that the training took, in one step."""
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
) -> Picked:
    """Trains a classifier M in place, as the authors do, and leaves it at its best."""
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
) -> Trained:
    """Trains one of the paper's four ways to put a network before a classifier."""
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
        if output != "logits":
            raise ValueError(
                'Invalid value for argument `output`. Expected "logits" for the '
                f'variant "stack". Received: output={output!r}'
            )
        trained = result = _stack(target, lure)
        beginners.append(trained)
        compile_classifier(trained, schedule.optimizer())
    elif variant == "auto":
        image = keras.Input(target.input_shape[1:], name="image")
        trained = result = keras.Model(image, lure(image), name="lure")
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
        whole, right = result, held.labels
        if variant != "stack":
            whole = join(result, target)
            right = predict(target, held.images).argmax(axis=1)
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
    )
    return Trained(result, best.restore() if best else None)


def train_in_stages(
    model: keras.Model,
    make_data: Callable[[int, int], tf.data.Dataset],
    *,
    steps: int,
    stage: int,
    best: "_Best | None",
    backup: Backup | None,
) -> None:
    """Trains a compiled model on what `make_data` gives for a first to a last step."""
    model.optimizer.build(model.trainable_variables)
    # Those of the random layers tell how often they have drawn.
    variables = [*model.variables, *model.optimizer.variables]
    done = 0
    if backup and (state := backup.load()):
        done = int(state["done"])
        for index, variable in enumerate(variables):
            variable.assign(state[f"v{index}"])
        if best:
            best.load(state)
    with tqdm.tqdm(total=steps, initial=done, unit="step", smoothing=0.05) as bar:
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
                kept = best.state() if best else {}
                for index, variable in enumerate(variables):
                    kept[f"v{index}"] = keras.ops.convert_to_numpy(variable)
                backup.save({"done": np.array(done), **kept})


class _Best:
    """The weights with which `answering` was right most often; of equals the first."""

    def __init__(
        self,
        model: keras.Model,
        images: FloatArray,
        right: IntArray,
        *,
        answering: keras.Model,
    ) -> None:
        self._model, self._answering = model, answering
        self._images, self._right = images, right
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
    """Makes the component P of a variant, untrained."""
    preset = LURE_RECIPES[dataset].preset
    drops = variant == "luring" or (variant == "ce" and preset == "cifar10")
    # A name of its own, the same in every file.
    return LuringInput(preset, width=width, dropout=None if drops else 0.0, name="lure")


def check_start(
    start: keras.Model, variant: Variant, target: keras.Model, lure: LuringInput
) -> None:
    """Checks that a training can begin with another one's weights."""
    lure.build(target.input_shape)
    whole = [_stack(target, lure)] if variant == "stack" else []
    _that_fits(start, [lure, *whole])


def join(lure: keras.Model, target: keras.Model) -> keras.Model:
    """Puts a trained P before M."""
    inputs = keras.Input(target.input_shape[1:], name="image")
    mapped = lure(inputs, training=False)
    return keras.Model(inputs, target(mapped, training=False), name="lured")


def untrained(target: keras.Model) -> keras.Model:
    """Makes a classifier of M's architecture, with new weights that can be trained."""
    # Not a clone: that has the optimizer of a compiled M, built for frozen weights.
    fresh = type(target).from_config(target.get_config())
    # Its layers are frozen too, and it does not hand its own `trainable` on to them.
    fresh.trainable = True
    for layer in inner_layers(fresh):
        layer.trainable = True
    return fresh


def _stack(target: keras.Model, lure: LuringInput) -> keras.Model:
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
) -> Callable[[int, int], tf.data.Dataset]:
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
