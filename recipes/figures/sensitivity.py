"""Where M and P look: Figure 6 of the luring paper, and its opposite directions."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from matplotlib.figure import Figure

from figures.drawing import (
    MUTED,
    Result,
    blank,
    draw_box,
    quantiles,
    style_axes,
)
from figures.luring_curves import VARIANT_HUES
from keras_traps._checks import FloatArray, IntArray
from keras_traps.evaluation.paper import NAMES
from keras_traps.models.logits import logits_model

# Pixels up to this value are background, where there is one.
_BACKGROUND = 0.1
_DRAWS = 64
_SHOWN = 4
_BATCH = 100


def slopes(model: keras.Model) -> Callable[[FloatArray, int], FloatArray]:
    """Compiles the derivative of a logit by the image.

    It is that of the logit less the mean of all: what is added to all logits changes no
    answer. Of a network that subtracts the largest one that has no derivative itself.
    """
    logits = logits_model(model, "logits")
    shape = (None, *model.input_shape[1:])

    @tf.function(
        input_signature=[tf.TensorSpec(shape, tf.float32), tf.TensorSpec((), tf.int32)],
        autograph=False,
    )
    def slope(images: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            found = logits(images, training=False)
            chosen = tf.gather(found, number, axis=1) - tf.reduce_mean(found, axis=1)
        return tape.gradient(chosen, images)

    return lambda images, number: slope(
        tf.constant(images, tf.float32), tf.constant(number)
    ).numpy()


def opposite_directions(
    target: keras.Model, augmented: keras.Model, images: FloatArray
) -> IntArray:
    """Counts the input values along which a logit of M rises and of M∘P falls.

    For each image x and class, the number of directions d with
    (∂l / ∂x_d) (∂lP / ∂x_d) < 0, of the logits l of M and lP of M∘P, as `slopes` has
    them.

    Reference:
        Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, Section 4.2.
    """
    first, second = slopes(target), slopes(augmented)
    counts = np.zeros((len(images), target.output_shape[1]), np.int64)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        for number in range(counts.shape[1]):
            # Signs, for the product of two small numbers may round to 0.
            ways = [np.sign(slope(images[part], number)) for slope in (first, second)]
            counts[part, number] = (ways[0] * ways[1] < 0).sum(axis=(1, 2, 3))
    return counts


def sensitivity(lure: keras.Model, images: FloatArray, *, seed: int) -> FloatArray:
    """Estimates how much P's image depends on each pixel of its input.

    The root of the sum over all values j of (∂P_j / ∂x_d)², and over the channels of a
    pixel d. The sum is the mean of (Jᵀv)_d² over vectors v of random signs, of which a
    few are taken in place of all rows of the Jacobian J.
    """
    shape = tf.TensorSpec((None, *lure.input_shape[1:]), tf.float32)

    @tf.function(input_signature=[shape, shape], autograph=False)
    def pulled_back(x: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            mapped = lure(x, training=False)
        return tape.gradient(mapped, x, output_gradients=signs)

    generator = np.random.default_rng(seed)
    total = np.zeros(images.shape, np.float32)
    either = np.array([-1, 1], np.float32)
    for _ in range(_DRAWS):
        signs = generator.choice(either, images.shape)
        total += pulled_back(tf.constant(images), tf.constant(signs)).numpy() ** 2
    return np.sqrt(total.sum(axis=3) / _DRAWS)


def figure_6(
    dataset: str,
    target: keras.Model,
    variants: Mapping[str, keras.Model],
    images: FloatArray,
    labels: IntArray,
    *,
    seed: int = 0,
) -> Result:
    """Draws which pixels M and the P of each variant depend on.

    M returns logits, and M∘P has P as its layer `lure`. The seed is of random signs.
    """
    maps = {"target": _attention(target, images, labels)}
    for variant, augmented in variants.items():
        maps[variant] = sensitivity(_lure_of(augmented), images, seed=seed)
    background = np.all(images <= _BACKGROUND, axis=3)
    numbers: dict[str, dict[str, Any]] = {
        name: {
            "background_share": quantiles(_shares(found, background)),
            "correlation_with_target": None
            if name == "target"
            else quantiles(_correlations(found, maps["target"])),
        }
        for name, found in maps.items()
    }
    # The first image of each of the first few classes that there are.
    chosen = np.sort(np.unique(labels, return_index=True)[1])[:_SHOWN]
    name = f"luring_figure6_{dataset}"
    return Result(
        name=name,
        title=f"Figure 6 on {dataset}: where P looks",
        pictures={name: _draw_maps(images[chosen], maps, chosen)},
        text=(
            "First column: the image. Second: how much M's logit of the true class, "
            "less the mean of all, depends on each pixel. Others: how much P's image "
            "does, ‖∂P / ∂x_d‖. Each map is scaled to its own maximum. In numbers, on "
            "test images that all models are right on: the share of the squared "
            f"dependence that lies on the background, pixels of at most {_BACKGROUND}, "
            "and the correlation with M's map over pixels."
        ),
        numbers={
            "dataset": dataset,
            "images": len(images),
            "draws": _DRAWS,
            "background_pixels": float(background.mean()),
            "maps": numbers,
        },
    )


def direction_counts(
    dataset: str,
    target: keras.Model,
    variants: Mapping[str, keras.Model],
    images: FloatArray,
) -> Result:
    """Counts, for each image, the directions along which logits go opposite ways.

    All models are right on the images. What is told are shares of all directions, and
    how often luring has the most and the fewest.
    """
    size = images[0].size
    shares = {
        variant: opposite_directions(target, augmented, images).mean(axis=1) / size
        for variant, augmented in variants.items()
    }
    rows = {variant: quantiles(share) for variant, share in shares.items()}
    ranks = _ranks(shares)
    count = len(images)
    figure = blank(4.8, 3.2)
    axes = figure.subplots()
    style_axes(axes)
    for place, (variant, share) in enumerate(shares.items()):
        draw_box(axes, place, 100 * share, VARIANT_HUES[variant])
    axes.axhline(50, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(shares)), [NAMES[name] for name in shares])
    axes.set_ylabel("Opposite directions, %")
    name = f"luring_directions_{dataset}"
    return Result(
        name=name,
        title=f"Opposite directions on {dataset}",
        pictures={name: figure},
        text=(
            f"For each of {count} test images that all models are right on, and each "
            "class, the share of input values along which the logit of M, less the "
            "mean of all, rises and that of M∘P falls, or the reverse; the mean over "
            "classes. Boxes hold the middle half of the images, whiskers reach from "
            "5 % to 95 %; half would be chance. Last, on how many of the images luring "
            "has more or fewer of them than all others.\n\n"
            "The paper reports that the number of opposite directions is lower for "
            "luring than for all others on more than 74 % of the images of SVHN and on "
            "52 % of CIFAR10, and takes this to speak for more directions that differ. "
            "It does not say how the classes are put together, and a lower number does "
            "not speak for that: both ways are given here, of the sum over the classes."
        ),
        numbers={
            "dataset": dataset,
            "images": count,
            "directions": size,
            "shares": rows,
            "luring": ranks,
        },
    )


def _lure_of(augmented: keras.Model) -> keras.Model:
    images = keras.Input(augmented.input_shape[1:], name="image")
    mapped = augmented.get_layer("lure")(images, training=False)
    return keras.Model(images, mapped, name="lure")


def _attention(target: keras.Model, images: FloatArray, labels: IntArray) -> FloatArray:
    """The length over channels of the derivative of the true class's logit."""
    slope = slopes(target)
    found = np.zeros(images.shape, np.float32)
    for label in np.unique(labels):
        found[labels == label] = slope(images[labels == label], int(label))
    return np.linalg.norm(found, axis=3)


def _shares(maps: FloatArray, where: npt.NDArray[np.bool_]) -> FloatArray:
    squares = maps.astype(np.float64) ** 2
    with np.errstate(invalid="ignore"):
        return (squares * where).sum(axis=(1, 2)) / squares.sum(axis=(1, 2))


def _correlations(first: FloatArray, second: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        pairs = zip(first, second, strict=True)
        return np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs])


def _ranks(shares: Mapping[str, FloatArray]) -> dict[str, dict[str, int]]:
    """On how many images luring is above, and below, all others; all but the stack."""
    others = [name for name in shares if name != "luring"]
    if "luring" not in shares:
        return {}
    found = {}
    for names in (others, [name for name in others if name != "stack"]):
        if names:
            luring = shares["luring"]
            rest = np.stack([shares[name] for name in names])
            found[", ".join(NAMES[name] for name in names)] = {
                "more": int((luring > rest).all(axis=0).sum()),
                "fewer": int((luring < rest).all(axis=0).sum()),
            }
    return found


def _draw_maps(
    images: FloatArray, maps: Mapping[str, FloatArray], chosen: IntArray
) -> Figure:
    columns = 1 + len(maps)
    figure = blank(1.35 * columns, 1.35 * len(images) + 0.35)
    panels = figure.subplots(len(images), columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for row, index, image in zip(panels, chosen, images, strict=True):
        row[0].imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
        for axes, found in zip(row[1:], maps.values(), strict=True):
            axes.imshow(found[index], cmap="magma", vmin=0)
    heads = ["image", *("M" if n == "target" else f"P, {NAMES[n]}" for n in maps)]
    for axes, head in zip(panels[0], heads, strict=True):
        axes.set_title(head, fontsize=9.5)
    return figure
