"""The paper's four ways to put a network before a classifier: luring and baselines."""

from collections.abc import Callable, Sequence

import keras

from keras_traps._checks import check_number
from keras_traps.datasets import Dataset
from keras_traps.layers import LuringInput
from keras_traps.layers.luring_input import LurePreset
from keras_traps.luring.augmentation import Augmentation
from keras_traps.luring.best import Best, Picked, hold_out
from keras_traps.luring.classifier import LuredClassifier
from keras_traps.luring.losses import LuringLoss
from keras_traps.luring.schedules import CosineSchedule, Schedule, Variant
from keras_traps.luring.training import Backup, train_in_stages
from keras_traps.luring.variant_data import right_answers, variant_data
from keras_traps.models.outputs import Output

PRESETS: dict[str, LurePreset] = {
    "mnist": "mnist",
    "svhn_cropped": "svhn",
    "cifar10": "cifar10",
    # The one that takes 8x8 pixels; a small width is enough.
    "digits": "cifar10",
}
"""The architecture of P by data set."""

_STILL = Augmentation()


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
    preset = PRESETS[dataset]
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


def train_variant(
    variant: Variant,
    target: keras.Model,
    data: Dataset,
    schedule: Schedule | CosineSchedule,
    *,
    output: Output,
    width: float = 1.0,
    loss: LuringLoss = "luring",
    luring_weight: float = 1.0,
    augmentation: Augmentation = _STILL,
    validation_split: float = 0.0,
    start: keras.Model | None = None,
    seed: int = 0,
    stage: int = 500,
    backup: Backup | None = None,
    on_pick: Callable[[Picked], None] | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Trains a variant of M∘P.

    Args:
        variant: Which.
        target: M, frozen; `"stack"` takes its architecture only.
        data: The training images; only `"stack"` looks at their labels.
        schedule: How long, and at what rates.
        output: What M returns; `"stack"` needs `"logits"`.
        width: Multiplies the filters of P. Defaults to `1.0`.
        loss: What `"luring"` is trained with. Defaults to `"luring"`.
        luring_weight: lambda. Defaults to `1.0`.
        augmentation: How far images are turned and shifted at random. For `"ce"` and
            `"luring"` M is then asked at every step. Defaults to not at all.
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
        on_pick: Called with which P was picked, where one is. Defaults to `None`.
        verbose: Whether to show a bar. Defaults to `True`.

    Returns:
        P as a model from images to images; of `"stack"` M∘P, from images to logits.

    Raises:
        ValueError: If M is trainable, or is not what `output` says, or `"stack"` is
            asked for where M does not return logits, or `start` has other weights
            than P, or `validation_split` is out of its range.
    """
    check_number(validation_split, name="validation_split", at_least=0.0, below=1.0)
    keras.utils.set_random_seed(seed)
    lure = make_lure(variant, data.name, width=width)
    trained: keras.Model
    result: keras.Model
    beginners: list[keras.layers.Layer] = [lure]
    if variant == "stack":
        trained = result = _stack(target, lure, output)
        beginners.append(trained)
        trained.compile(
            schedule.optimizer(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
    elif variant == "auto":
        inputs = keras.Input(target.input_shape[1:], name="image")
        trained = result = keras.Model(inputs, lure(inputs), name="lure")
        trained.compile(schedule.optimizer(), "binary_crossentropy", jit_compile=False)
    else:
        trained = LuredClassifier(target, lure, output=output)
        loss = "cross_entropy" if variant == "ce" else loss
        trained.compile(
            schedule.optimizer(),
            loss,
            luring_weight=luring_weight if loss == "luring" else None,
        )
        result = trained.to_lure_model()
    if start is not None:
        _that_fits(start, beginners).set_weights(start.get_weights())
    best = None
    if validation_split and variant != "auto":
        data, held = hold_out(data, validation_split, seed=seed)
        answers = right_answers(variant, target, held)
        whole = result if variant == "stack" else join(result, target)
        best = Best(result, held.images, answers, backup, answering=whole)
        if start is not None:
            best.keep(0)
    train_in_stages(
        trained,
        variant_data(
            variant,
            target,
            data,
            schedule,
            output=output,
            augmentation=augmentation,
            seed=seed,
        ),
        steps=schedule.steps,
        stage=stage,
        backup=backup,
        after_stage=None if best is None else best.keep,
        verbose=verbose,
    )
    if best is not None:
        picked = best.restore()
        if on_pick is not None:
            on_pick(picked)
    return result


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
    _thaw(fresh)
    return fresh


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


def _stack(target: keras.Model, lure: LuringInput, output: Output) -> keras.Model:
    if output != "logits":
        raise ValueError(
            "Invalid value for argument `output`. Expected a classifier that returns "
            f'"logits" for the variant "stack". Received: output={output!r}'
        )
    inputs = keras.Input(target.input_shape[1:], name="image")
    return keras.Model(inputs, untrained(target)(lure(inputs)), name="stack")


def _thaw(layer: keras.layers.Layer) -> None:
    layer.trainable = True
    for inner in getattr(layer, "layers", ()):
        _thaw(inner)
