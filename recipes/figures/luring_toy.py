"""Luring on three classes that one can see through: the luring paper's Section 3.3."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import layers
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from figures.drawing import HUES, MUTED, Result, blank
from figures.sensitivity import opposite_directions, slopes
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


def _zones() -> npt.NDArray[np.bool_]:
    zones = np.zeros((CLASSES, SIZE, SIZE), bool)
    half = SIZE // 2
    zones[0, :half, :half] = True
    zones[1, :half, half:] = True
    zones[2, half:, :half] = True
    zones.setflags(write=False)
    return zones


ZONES = _zones()
"""Where each class has its pixels: three quarters of the image, `(3, 12, 12)`, bool.

The fourth quarter, below on the right, is neutral: there no image has any. The paper
draws its zones without saying where they are.
"""


class ToyImages(NamedTuple):
    """Images, `(images, 12, 12, 1)`, float32, and their classes, `(images,)`, int64.

    Pixels are 0.3 to 0.7 in the zone of the class, and 0 elsewhere.
    """

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


def train_toy_target(data: ToyImages, *, steps: int = 100) -> keras.Model:
    """Trains the illustration's classifier M, a weight per class and zone, frozen.

    Its scores are sums over pixels, in which all pixels of a zone weigh the same and
    those of the neutral zone nothing, as the paper has it. Each step is of all images.
    """
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
    model.fit(*data, batch_size=len(data.images), epochs=steps, verbose=0)
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
    """Trains a component P before M, the paper's for MNIST, by steps of 32 images.

    It is not told labels. The seed is of its first weights and the order of images.
    """
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
    """Attacks M and M∘P, counts directions, and draws the paper's Figures 2 and 3.

    PGD makes `nb_iter` steps of 0.02, or of its radius if that is smaller; what it made
    of the last radius is drawn.
    """
    models = {"M": model.target, "M∘P": model}
    rows: list[dict[str, Any]] = []
    shown: dict[tuple[str, str], AttackResult] = {}
    for radius in eps:
        settings: dict[str, Any] = {
            "eps": radius,
            "eps_iter": min(0.02, radius),
            "nb_iter": nb_iter,
        }
        for attack in (PGD(**settings), TargetedPGD(**settings)):
            goals = (test.labels + 1) % CLASSES if attack.targeted else None
            for name, attacked in models.items():
                found = attack(
                    attacked, test.images, test.labels, y_target=goals, seed=seed
                )
                shown[attack.name, name] = found
                where = {"attack": attack.name, "eps": radius, "on": name}
                counts = _counts(found, model.target, test.labels, goals)
                rows.append({**where, **counts})
    own = {name: _own_slopes(one, test) for name, one in models.items()}
    neutral = ~ZONES.any(axis=0)
    slope = np.abs(own["M∘P"])
    steep = slope > _NEGLIGIBLE * slope.max(axis=(1, 2), keepdims=True)
    opposite = opposite_directions(model.target, model, test.images)
    return Result(
        name="luring_toy",
        title="Luring on three classes that one can see through",
        pictures={
            "luring_figure2": _draw_zones(model, test, own),
            "luring_figure3": _draw_attacks(model, test, shown),
        },
        text=(
            f"{len(test.images)} images of {SIZE} by {SIZE}, the paper's Section 3.3. "
            "Figure 2, by class: where it has its pixels (white), where the others "
            "have theirs (black), and the neutral zone (grey); an image; what P makes "
            "of it; and how the class's logit changes with each pixel, blue for rising "
            "and orange for falling, of M and of M∘P, each scaled to its own largest. "
            "Figure 3: above, untargeted PGD; below, PGD towards the next class: the "
            "clean image, an adversarial one made on M and what it changed, one made "
            "on M∘P and what it changed, and what P makes of that.\n\n"
            "M is blind to the neutral pixels; `used_by_augmented_alone` is the share "
            f"of them that move M∘P by more than {_NEGLIGIBLE:.0%} of what its "
            "steepest pixel does. `opposite` is the share of the others that move a "
            "logit of M∘P the other way than that of M. Clean images are 0 in the "
            "neutral zone."
        ),
        numbers={
            "accuracy": {
                name: float(
                    (predict(one, test.images).argmax(axis=1) == test.labels).mean()
                )
                for name, one in models.items()
            },
            "neutral_pixels": int(neutral.sum()),
            "used_by_augmented_alone": float(steep[:, neutral].mean()),
            "opposite": float(opposite.mean() / (~neutral).sum()),
            "attacks": rows,
        },
    )


def _own_slopes(model: keras.Model, test: ToyImages) -> FloatArray:
    """By how much each image's own logit rises with each pixel, (images, 12, 12)."""
    slope = slopes(model)
    by_class = np.stack([slope(test.images, c) for c in range(CLASSES)])
    return by_class[test.labels, np.arange(len(test.labels)), ..., 0]


def _counts(
    found: AttackResult,
    target: keras.Model,
    labels: IntArray,
    goals: IntArray | None,
) -> dict[str, int]:
    said = predict(target, found.images).argmax(axis=1)[found.success]
    right = int((said == labels[found.success]).sum())
    counts = {
        "succeeds": int(found.success.sum()),
        "target_right": right,
        "target_fooled": len(said) - right,
    }
    if goals is not None:
        counts["target_at_goal"] = int((said == goals[found.success]).sum())
    return counts


def _draw_zones(
    model: LuredClassifier, test: ToyImages, own: Mapping[str, FloatArray]
) -> Figure:
    firsts = [int(np.argmax(test.labels == c)) for c in range(CLASSES)]
    mapped = predict(model.to_lure_model(), test.images)
    figure = blank(4.6, 7.2)
    grid = figure.subplots(5, CLASSES)
    for c, index in enumerate(firsts):
        _gray(grid[0, c], 0.5 - 0.5 * ZONES.any(axis=0) + ZONES[c])
        _gray(grid[1, c], test.images[index, ..., 0])
        _gray(grid[2, c], mapped[index, ..., 0])
        for row, slope in enumerate(own.values(), 3):
            _signed(grid[row, c], slope[index])
        grid[0, c].set_title(f"class {c + 1}", fontsize=10)
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
        third = (said != test.labels) & (said != (test.labels + 1) % CLASSES)
        both = on_target.success & on_augmented.success
        index = _first(both & (third if row else kept), both & kept, both)
        clean = test.images[index]
        columns = (
            clean,
            on_target.images[index],
            on_target.images[index] - clean,
            on_augmented.images[index],
            on_augmented.images[index] - clean,
            predict(lure, on_augmented.images[index][np.newaxis])[0],
        )
        for column, pixels in enumerate(columns):
            draw = _signed if column in (2, 4) else _gray
            draw(grid[row, column], pixels[..., 0])
            if column in (0, 1, 3):
                words = ", ".join(
                    f"{who}: {1 + int(predict(m, pixels[np.newaxis]).argmax())}"
                    for who, m in (("M", model.target), ("M∘P", model))
                )
                grid[row, column].set_xlabel(words, fontsize=9)
        grid[row, 0].set_ylabel("targeted" if row else "untargeted", fontsize=10)
    heads = ("x", "made on M", "change", "made on M∘P", "change", "P of it")
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=10)
    return figure


def _first(*choices: Any) -> int:
    """The first image of the first choice that has one, else the first of all."""
    return next((int(np.argmax(chosen)) for chosen in choices if chosen.any()), 0)


def _gray(axes: Axes, pixels: FloatArray) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    _frame(axes)


def _signed(axes: Axes, values: FloatArray) -> None:
    colours = LinearSegmentedColormap.from_list(
        "falls and rises", [HUES[1], "white", HUES[0]]
    )
    reach = float(np.abs(values).max()) or 1.0
    axes.imshow(values, cmap=colours, vmin=-reach, vmax=reach)
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(MUTED)
