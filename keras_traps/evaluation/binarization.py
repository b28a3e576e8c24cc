"""Whether an attack finds what is known to be there: the binarization test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import numpy.typing as npt
import tqdm
from sklearn.linear_model import LogisticRegression

from keras_traps._checks import (
    UNIT,
    Bounds,
    FloatArray,
    check_count,
    check_images,
    check_share,
)
from keras_traps._pixels import to_unit
from keras_traps.attacks import Attack
from keras_traps.attacks.base import check_radius
from keras_traps.evaluation.subjects import Question
from keras_traps.models.forms import for_model
from keras_traps.models.inference import as_graph, predict
from keras_traps.models.outputs import AttackedOutput, check_classifier
from keras_traps.rates import Rate

# Inner points lie within this share of the radius.
_INNER = 0.95
# How many random points an attack has to be better than.
_RANDOM = 200
# How often a border point is drawn that the detector is to say the wanted thing of.
_ROUNDS = 10


@dataclasses.dataclass(frozen=True)
class Binarization:
    """What the test found.

    Args:
        attack: How often the attack found the planted class. A sound one is close to 1:
            less says that a search for adversarial images misses ones that exist.
        random: How often one of 200 random points of the ball found it; above a few per
            cent the test says nothing.
        skipped: How many images were left out: their points could not be parted, or no
            border point was flagged as the test wants it.
    """

    attack: Rate
    random: Rate
    skipped: int


def binarization_test(
    classifier: keras.Model,
    attack: Attack,
    images: FloatArray,
    *,
    eps: float,
    defend: Callable[[keras.Model], keras.Model] | None = None,
    output: AttackedOutput = "logits",
    bounds: Bounds = UNIT,
    flags: Question | None = None,
    inverted: bool = False,
    num_inner: int = 999,
    closeness: float = 0.999,
    seed: int = 0,
) -> Binarization:
    """Tests an attack where it is known that there is something to find.

    Around each image points of the ball are drawn, and one on its surface. A new last
    layer for two classes parts that one from all others, by what the classifier's last
    hidden layer makes of them, as close to that one as `closeness` says. So there is a
    point of the second class in the ball, and the attack, with the settings of the
    evaluation that it is to vouch for, has to find one.

    Args:
        classifier: A built Keras model from images `(batch, ...)` to logits, whose last
            layer is dense.
        attack: An untargeted attack with an L-infinity radius of `eps`.
        images: `(images, ...)`, pixels in `bounds`.
        eps: The radius, a share of the range of a pixel.
        defend: What the defence makes of a classifier of two classes that returns
            logits, such as `functools.partial(inject, settings=settings)`. Defaults to
            `None`: the classifier itself is attacked.
        output: What the attacked model returns. Defaults to `"logits"`.
        bounds: The least and the largest value of a pixel. Defaults to `(0.0, 1.0)`.
        flags: A detector, from images to whether each is flagged. The planted point is
            then one that is not flagged, and to be found is a point of the second class
            that is not. Defaults to `None`.
        inverted: Whether instead flagged ones are planted and to be found, which tells
            whether the attack can move the detector at all. Defaults to `False`.
        num_inner: How many points of the first class are drawn, at least 1. Defaults to
            `999`.
        closeness: Where the border lies between the nearest other point, 0, and the
            planted one, 1. Defaults to `0.999`.
        seed: Seed of all draws. Defaults to `0`.

    Returns:
        The shares of images.

    Raises:
        TypeError: If images are integers and the bounds are not.
        ValueError: If the last layer is not dense, an argument is out of its range, the
            attack is targeted or of another radius, or `inverted` is asked for without
            a detector.

    Reference:
        Zimmermann, Brendel, Tramer, Carlini, Increasing Confidence in Adversarial
        Robustness Evaluations, 2022.
    """
    check_classifier(classifier, "logits")
    check_radius("eps", eps)
    check_share(closeness, name="closeness")
    check_count("num_inner", num_inner)
    check_count("seed", seed, at_least=0)
    if attack.linf_bound != eps or attack.targeted:
        raise ValueError(
            "Invalid value for argument `attack`. Expected an untargeted one of radius "
            f"{eps:g}. Received: {attack!r}"
        )
    if inverted and flags is None:
        raise ValueError(
            "Invalid value for argument `inverted`. Expected `False` without `flags`. "
            "Received: inverted=True"
        )
    given = check_images(images, classifier.input_shape[1:], bounds=bounds)
    clean = to_unit(given, bounds)
    hidden, head = _parted(classifier)
    plain = keras.Model(hidden.inputs, head(hidden.outputs[0]), name="binarized")
    attacked = plain if defend is None else defend(plain)
    # The planted classes are to be as far apart as the classifier's own.
    ranked = np.sort(predict(classifier, given), axis=1)
    leads = np.maximum(ranked[:, -1] - ranked[:, -2], np.finfo(np.float32).tiny)

    def as_given(points: FloatArray) -> FloatArray:
        return for_model(classifier, points.astype(np.float32), bounds)

    def wanted(points: FloatArray) -> npt.NDArray[np.bool_]:
        if flags is None:
            return np.ones(len(points), bool)
        return np.asarray(flags(as_given(points)), bool) == inverted

    found, by_chance, skipped = 0, 0, 0
    for row in tqdm.trange(len(clean), unit="image"):
        draw = np.random.default_rng([seed, row])
        image = clean[row]
        planted = next(
            (
                point
                for point in (_on_surface(image, eps, draw) for _ in range(_ROUNDS))
                if wanted(point[None])[0]
            ),
            None,
        )
        inner = _inside(image, _INNER * eps, num_inner, draw)
        points = np.concatenate([image[None], inner])
        if planted is None or not _plant(
            head,
            predict(hidden, as_given(points)),
            predict(hidden, as_given(planted[None]))[0],
            closeness=closeness,
            lead=float(leads[row]),
        ):
            skipped += 1
            continue
        tried = _inside(image, eps, _RANDOM, draw)
        lucky = predict(plain, as_given(tried)).argmax(axis=1) == 1
        by_chance += bool((lucky & wanted(tried)).any())
        result = attack(
            attacked,
            given[row : row + 1],
            np.zeros(1, np.int64),
            output=output,
            bounds=bounds,
            ids=np.array([row]),
            seed=seed,
        )
        hit = result.success & wanted(to_unit(result.images, bounds))
        found += bool(hit[0])
    tested = len(clean) - skipped
    return Binarization(Rate(found, tested), Rate(by_chance, tested), skipped)


def _parted(classifier: keras.Model) -> tuple[keras.Model, keras.layers.Dense]:
    """Returns the classifier up to its last layer, and one for two classes."""
    graph = as_graph(classifier, name="hidden")
    last = graph.layers[-1]
    if not isinstance(last, keras.layers.Dense):
        raise ValueError(
            "Invalid value for argument `classifier`. Expected a model whose last "
            f"layer is dense. Received: {last.name!r}, a {type(last).__name__}"
        )
    hidden = keras.Model(graph.inputs, last.input, name="hidden")
    return hidden, keras.layers.Dense(2, dtype="float32", name="readout")


def _inside(
    image: FloatArray, eps: float, count: int, draw: np.random.Generator
) -> FloatArray:
    """Draws points of the ball, within [0, 1]."""
    low, high = np.maximum(image - eps, 0), np.minimum(image + eps, 1)
    return (low + (high - low) * draw.random((count, *image.shape))).astype(np.float32)


def _on_surface(image: FloatArray, eps: float, draw: np.random.Generator) -> FloatArray:
    """Draws a point of which one value moves by the whole radius."""
    (point,) = _inside(image, eps, 1, draw)
    place = np.unravel_index(draw.integers(image.size), image.shape)
    # No radius above a half leaves both ways open.
    up = image[place] + eps <= 1 and (image[place] < eps or draw.random() < 0.5)
    point[place] = np.clip(image[place] + (eps if up else -eps), 0, 1)
    return point


def _plant(
    head: keras.layers.Dense,
    others: FloatArray,
    planted: FloatArray,
    *,
    closeness: float,
    lead: float,
) -> bool:
    """Sets the last layer; returns whether it parts the planted point from others."""
    values = np.concatenate([others, planted[None]]).astype(np.float64)
    # What does not change says nothing, and small differences are to count.
    middle, spread = values.mean(axis=0), values.std(axis=0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    standard = (values - middle) * scale
    fitted = LogisticRegression(C=1e6, class_weight="balanced", max_iter=1000)
    fitted.fit(standard, np.arange(len(values)) == len(others))
    weights = fitted.coef_[0] * scale
    told = (values - middle) @ weights
    nearest, target = told[:-1].max(), told[-1]
    if nearest >= target:
        return False
    border = nearest + closeness * (target - nearest)
    # The clean image is the first; its own lead is what the classifier had.
    size = lead / max(border - told[0], np.finfo(np.float64).tiny)
    weights = size * weights
    bias = -size * border - weights @ middle
    columns = np.stack([-weights / 2, weights / 2], axis=1)
    head.set_weights([columns, np.array([-bias / 2, bias / 2])])
    return True
