"""Luring on three classes that one can see through: the luring paper's Section 3.3."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure

from figures.drawing import Result, blank, show_pixels
from figures.luring_figures import opposite_directions, slopes
from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import AttackResult, Kind, TargetRule
from keras_traps.attacks.gradient import PGD
from keras_traps.layers import LuringInput
from keras_traps.luring import LuredClassifier, answered_dataset, batch_order
from keras_traps.luring.losses import LuringLoss
from keras_traps.models.inference import predict

SIZE, CLASSES = 12, 3

# A slope of less than this share of the image's steepest is not counted as used.
_NEGLIGIBLE = 0.01


ZONES = np.kron(np.eye(4)[:CLASSES].reshape(-1, 2, 2), np.ones((SIZE // 2,) * 2)) > 0
"""Where each class has its pixels: a quarter of the image; the fourth is neutral.

The paper draws its zones without saying where they are.
"""


class ToyImages(NamedTuple):
    """Images, of pixels of 0.3 to 0.7 in the zone of the class and 0 elsewhere."""

    images: FloatArray
    labels: IntArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetedPGD(PGD):
    """PGD towards a given class."""

    name: ClassVar[str] = "TPGD"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"


def toy_images(count: int, *, seed: int) -> ToyImages:
    """Draws a number of images, the classes in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = rng.uniform(0.3, 0.7, (count, SIZE, SIZE)) * ZONES[labels]
    return ToyImages(pixels[..., np.newaxis].astype(np.float32), labels)


def train_toy_target(data: ToyImages) -> keras.Model:
    """Trains the paper's classifier M, frozen: each zone has one weight per class."""
    inputs = keras.Input((SIZE, SIZE, 1), name="image")
    zones = layers.Dense(CLASSES, use_bias=False, trainable=False, name="zones")
    sums = zones(layers.Flatten()(inputs))
    zones.set_weights([ZONES.reshape(CLASSES, -1).T.astype(np.float32)])
    scores = layers.Dense(
        CLASSES, use_bias=False, kernel_initializer="zeros", name="scores"
    )
    model = keras.Model(inputs, scores(sums), name="toy_target")
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(*data, batch_size=len(data.images), epochs=100, verbose=0)
    model.trainable = False
    return model


def train_toy_lure(
    target: keras.Model,
    data: ToyImages,
    *,
    loss: LuringLoss = "luring",
    steps: int = 300,
    seed: int = 0,
) -> LuredClassifier:
    """Trains a component P before M, the paper's for MNIST, without labels."""
    keras.utils.set_random_seed(seed)
    model = LuredClassifier(target, LuringInput("mnist"), output="logits")
    model.compile(keras.optimizers.Adam(3e-3), loss)
    order = batch_order(len(data.images), 32, steps, seed=seed)
    told = answered_dataset(target, data.images, output="logits", order=order)
    model.fit(told, shuffle=False, verbose=0)
    return model


def luring_toy(
    model: LuredClassifier,
    test: ToyImages,
    *,
    eps: Sequence[float],
    nb_iter: int = 40,
    seed: int = 0,
) -> Result:
    """Attacks M and M∘P, counts directions, and draws the paper's Figures 2 and 3."""
    models = {"M": model.target, "M∘P": model}
    images, labels = test
    rows: list[dict[str, Any]] = []
    shown: dict[tuple[str, str], AttackResult] = {}
    for radius in eps:
        step = min(0.02, radius)
        for kind in (PGD, TargetedPGD):
            attack = kind(eps=radius, eps_iter=step, nb_iter=nb_iter)
            goals = (labels + 1) % CLASSES if attack.targeted else None
            for name, attacked in models.items():
                found = attack(attacked, images, labels, y_target=goals, seed=seed)
                shown[attack.name, name] = found
                heard = predict(model.target, found.images[found.success])
                said = heard.argmax(axis=1)
                right = (said == labels[found.success]).sum()
                row = {"attack": attack.name, "eps": radius, "on": name}
                row |= {"succeeds": len(said), "target_right": right}
                row["target_fooled"] = len(said) - right
                if goals is not None:
                    row["target_at_goal"] = (said == goals[found.success]).sum()
                rows.append(row)
    own = {name: slopes(one, images, labels)[..., 0] for name, one in models.items()}
    neutral = ~ZONES.any(axis=0)
    slope = np.abs(own["M∘P"])
    steep = slope > _NEGLIGIBLE * slope.max(axis=(1, 2), keepdims=True)
    opposite = opposite_directions(model.target, model, images)
    answers = {
        name: predict(one, images).argmax(axis=1) for name, one in models.items()
    }
    return Result(
        figure="luring_toy",
        dataset="",
        title="Luring on three classes that one can see through",
        pictures={
            "luring_figure2": _draw_zones(model, test, own),
            "luring_figure3": _draw_attacks(model, test, shown),
        },
        numbers={
            "accuracy": {name: np.mean(of == labels) for name, of in answers.items()},
            "neutral_pixels": neutral.sum(),
            "used_by_augmented_alone": steep[:, neutral].mean(),
            "opposite": opposite.mean() / (~neutral).sum(),
            "attacks": rows,
        },
        words={
            "images": len(images),
            "size": SIZE,
            "negligible": f"{100 * _NEGLIGIBLE:g}",
        },
    )


def _draw_zones(
    model: LuredClassifier, test: ToyImages, own: Mapping[str, FloatArray]
) -> Figure:
    mapped = predict(model.to_lure_model(), test.images)
    figure = blank(4.6, 7.2)
    grid = figure.subplots(5, CLASSES)
    for c, column in enumerate(grid.T):
        index = int(np.argmax(test.labels == c))
        show_pixels(column[0], 0.5 - 0.5 * ZONES.any(axis=0) + ZONES[c])
        show_pixels(column[1], test.images[index, ..., 0])
        show_pixels(column[2], mapped[index, ..., 0])
        for axes, slope in zip(column[3:], own.values(), strict=True):
            show_pixels(axes, slope[index], signed=True)
        column[0].set_title(f"class {c + 1}", fontsize=10)
    heads = ("zone", "example x", "P(x)", *(f"slope of {name}" for name in own))
    for axes, head in zip(grid[:, 0], heads, strict=True):
        axes.set_ylabel(head, fontsize=10)
    return figure


def _draw_attacks(
    model: LuredClassifier,
    test: ToyImages,
    shown: Mapping[tuple[str, str], AttackResult],
) -> Figure:
    figure = blank(10.4, 4.4)
    grid = figure.subplots(2, 6)
    lure = model.to_lure_model()
    for row, name in enumerate(("PGD", "TPGD")):
        on_target, on_augmented = shown[name, "M"], shown[name, "M∘P"]
        said = predict(model.target, on_augmented.images).argmax(axis=1)
        # What the paper shows: M keeps its answer, or gives a third one.
        kept = said == test.labels
        third = ~kept & (said != (test.labels + 1) % CLASSES)
        both = on_target.success & on_augmented.success
        # The first image of the best choice that has one.
        index = int(np.argmax(both * (1 + kept + 2 * third * row)))
        clean = test.images[index]
        made, lured = on_target.images[index], on_augmented.images[index]
        after = predict(lure, lured[np.newaxis])[0]
        columns = (clean, made, made - clean, lured, lured - clean, after)
        for column, (axes, pixels) in enumerate(zip(grid[row], columns, strict=True)):
            show_pixels(axes, pixels[..., 0], signed=column in (2, 4))
            if column in (0, 1, 3):
                words = ", ".join(
                    f"{who}: {1 + int(predict(m, pixels[np.newaxis]).argmax())}"
                    for who, m in (("M", model.target), ("M∘P", model))
                )
                axes.set_xlabel(words, fontsize=9)
        grid[row, 0].set_ylabel("targeted" if row else "untargeted", fontsize=10)
    heads = ("x", "made on M", "change", "made on M∘P", "change", "P of it")
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=10)
    return figure
