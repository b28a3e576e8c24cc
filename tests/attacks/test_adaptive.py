import functools
import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from scipy.optimize import linprog

from keras_traps._checks import FloatArray
from keras_traps.attacks import AttackResult, adaptive, create
from tests.attacks.calling import Weighted, compiled_parts
from tests.attacks.victims import (
    PIXELS,
    SHAPE,
    TWO_CLASSES,
    linear,
    some_images,
    two_classes,
)

Floats = npt.NDArray[np.float64]

NAMES = ["SelectivePGD", "OrthogonalPGD", "LagrangianPGD"]
# The gradient of the second class's lead, and that of a score at an angle to it.
LEAD = (TWO_CLASSES[:, 1] - TWO_CLASSES[:, 0]).astype(np.float64).reshape(SHAPE)
SCORE = np.array([1.0, 2.0, -1.0, 0.5, 1.0, 1.0]).reshape(SHAPE)
GREY = np.full((1, *SHAPE), 0.5, np.float32)


def unit(direction: Floats) -> Floats:
    return direction / np.linalg.norm(direction)


def free_of(direction: Floats, other: Floats) -> Floats:
    return direction - (direction * unit(other)).sum() * unit(other)


@functools.cache
def detector() -> Weighted:
    """Flags what has a higher score than grey images."""
    return Weighted(SCORE, float(SCORE.sum() / 2))


def attack(name: str, images: FloatArray, labels: Any, **settings: Any) -> AttackResult:
    watched = settings.pop("detector", None) or detector()
    more = {} if name != "LagrangianPGD" else {"binary_search_steps": 1}
    made = create(name, **{"eps": 0.3, **more, **settings})
    return made(two_classes(), images, labels, detector=watched)


# A grey image is of the first class, but for the label that says how it is attacked.
@pytest.mark.parametrize(
    ("name", "fooled", "expected"),
    [
        ("SelectivePGD", False, LEAD),
        ("SelectivePGD", True, -SCORE),
        ("OrthogonalPGD", False, free_of(LEAD, SCORE)),
        ("OrthogonalPGD", True, -free_of(SCORE, -LEAD)),
        ("LagrangianPGD", False, LEAD - SCORE),
        ("LagrangianPGD", True, -LEAD - SCORE),
    ],
)
@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_a_step_goes_where_theory_has_it(
    name: str, fooled: bool, expected: Floats, norm: str
) -> None:
    settings: dict[str, Any] = {"nb_iter": 1, "eps_iter": 0.001, "norm": norm}
    assert (GREY.ravel() @ LEAD.ravel()) < 0
    result = attack(name, GREY, [int(fooled)], **settings)
    step = unit(expected) * math.sqrt(PIXELS) if norm == "L2" else np.sign(expected)
    if norm == "L2":
        moved = np.square(result.images - GREY).mean()
        assert math.sqrt(moved) == pytest.approx(0.001, rel=1e-3)
    np.testing.assert_allclose(result.images[0] - GREY[0], 0.001 * step, atol=1e-6)


def walked(image: Floats, nb_iter: int, eps: float) -> tuple[Floats, float]:
    """Selective PGD as its authors write it, with shrinking steps, in float64."""
    best, least, clean, length = image, math.inf, image, eps / 10
    for number in range(nb_iter + 1):
        fooled = (image * LEAD).sum() > 0
        score = float((image * SCORE).sum())
        if fooled and score < least:
            best, least = image, score
        step = unit(-SCORE if fooled else LEAD) * math.sqrt(PIXELS)
        if number < nb_iter:
            moved = image + length * (1 - number / nb_iter) * step
            image = np.clip(np.clip(moved, clean - eps, clean + eps), 0, 1)
    return (image if math.isinf(least) else best), least


def test_the_result_is_the_lowest_score_of_the_whole_way_that_fools() -> None:
    images = some_images(12)
    result = attack("SelectivePGD", images, [0] * 12)
    fooled = 0
    for image, found in zip(images, result.images, strict=True):
        expected, least = walked(image.astype(np.float64), 100, 0.3)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        fooled += math.isfinite(least)
    assert fooled > 6
    assert (result.iterations == 100).all()


def test_steps_are_the_classifiers_until_another_class_leads_by_enough() -> None:
    images = some_images(6)
    lead = -(images * LEAD).sum(axis=(1, 2, 3))
    assert (lead > 0.3).all()
    # The steps reach 0.2 times the lead behind the border, and stay about there.
    result = attack("SelectivePGD", images, [0] * 6, nb_iter=300, confidence=0.2)
    [loose] = [attack("SelectivePGD", images, [0] * 6, nb_iter=300)]
    ahead, near = ((one.images * LEAD).sum(axis=(1, 2, 3)) for one in (result, loose))
    assert (near < 0.05).all()
    assert (ahead > near).all()


@pytest.mark.parametrize("name", NAMES)
def test_evading_is_more_than_fooling(name: str) -> None:
    images = some_images(20)
    settings = {"binary_search_steps": 6} if name == "LagrangianPGD" else {}
    result = attack(name, images, [0] * 20, **settings)
    fgsm = create("FGSM", eps=0.3)(two_classes(), images, [0] * 20)
    flagged = detector().detect(fgsm.images).is_adversarial
    assert result.success.mean() > (fgsm.success & ~flagged).mean() + 0.5
    seen = detector().detect(result.images).is_adversarial
    np.testing.assert_array_equal(result.flagged, seen)
    np.testing.assert_array_equal(result.success, (result.answers == 1) & ~seen)
    assert (result.rejections == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_evades_nothing_succeeds(name: str) -> None:
    # It flags what the second class leads in.
    strict = Weighted(LEAD, 0.0)
    result = attack(name, some_images(8), [0] * 8, detector=strict)
    assert not result.success.any()
    np.testing.assert_array_equal(result.flagged, result.answers == 1)
    assert np.isfinite(result.images).all()


def test_lambda_is_searched_over_orders_of_magnitude() -> None:
    images = some_images(8)
    # As heavy as that the detector is all that counts.
    settings = {"initial_const": 1e3}
    fixed = attack("LagrangianPGD", images, [0] * 8, **settings)
    assert not fixed.success.any()
    # The lowest score of an image in the ball that fools, by linear programming.
    optima = [
        linprog(
            SCORE.ravel(),
            A_ub=[-LEAD.ravel()],
            b_ub=[0.0],
            bounds=[(one - 0.3, one + 0.3) for one in image.ravel()],
        ).fun
        for image in images
    ]
    feasible = np.array(optima) < detector().threshold() - 0.25
    assert feasible.sum() == 7
    found = attack("LagrangianPGD", images, [0] * 8, **settings, binary_search_steps=9)
    assert found.success[feasible].all()
    assert (found.iterations == 9 * 100).all()


def test_bounds_on_lambda_close_in_by_geometric_means() -> None:
    search = adaptive._Search(*(tf.constant([one]) for one in (1.0, 0.0, math.inf)))
    weights = []
    for met in (True, True, False, True, False):
        search = adaptive._next(search, tf.constant([met]))
        weights.append(float(search.weight[0]))
    expected = [10.0, 100.0, 10**1.5, 10**1.75, 10**1.625]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    search = adaptive._Search(*(tf.constant([one]) for one in (1.0, 0.0, math.inf)))
    lighter = adaptive._next(search, tf.constant([False])).weight
    assert float(lighter[0]) == pytest.approx(0.1)


def test_the_first_start_is_the_image_and_others_are_drawn() -> None:
    images = some_images(5)
    made = create("SelectivePGD", eps=0.3, nb_iter=4, nb_restarts=3)
    once = create("SelectivePGD", eps=0.3, nb_iter=4)
    many, single, same = (
        one(two_classes(), images, [0] * 5, detector=detector(), seed=seed)
        for one, seed in ((made, 0), (once, 0), (once, 1))
    )
    np.testing.assert_array_equal(single.images, same.images)
    assert (many.iterations == 12).all()
    both = (single.answers == 1) & (many.answers == 1)
    before, after = (detector().score(one.images) for one in (single, many))
    assert (after[both] <= before[both]).all()
    assert ((many.answers == 1) | (single.answers == 0)).all()


def test_a_detector_is_shown_what_the_model_takes() -> None:
    images = some_images(6)
    image = keras.Input(SHAPE)
    inner = linear(TWO_CLASSES)
    signed = keras.Model(image, inner(keras.layers.Rescaling(0.5, 0.5)(image)))
    settings: dict[str, Any] = {"eps": 0.3, "nb_iter": 20}
    # On pixels from -1 to 1 the same score, but for a constant.
    own = Weighted(SCORE / 2, 0.0)
    for name in NAMES:
        made = create(name, **settings)
        one = made(inner, images, [0] * 6, detector=detector())
        scaled, bounds = 2 * images - 1, (-1.0, 1.0)
        other = made(signed, scaled, [0] * 6, bounds=bounds, detector=own)
        np.testing.assert_allclose((other.images + 1) / 2, one.images, atol=1e-4)
        np.testing.assert_array_equal(one.success, other.success)


def test_a_detector_that_was_fitted_anew_is_followed_anew() -> None:
    model, images = linear(TWO_CLASSES), some_images(5)
    changed = Weighted(SCORE, 1.0)
    made = create("SelectivePGD", eps=0.3)
    first = made(model, images, [0] * 5, detector=changed)
    made(model, images[:2], [0] * 2, detector=changed)
    changed.__init__(-SCORE, -1.0)  # type: ignore[misc]
    second = made(model, images, [0] * 5, detector=changed)
    alike = made(model, images, [0] * 5, detector=Weighted(-SCORE, -1.0))
    np.testing.assert_array_equal(second.images, alike.images)
    assert np.abs(first.images - second.images).max() > 0.05
    counts = [
        loop.experimental_get_tracing_count() for loop in compiled_parts(model).values()
    ]
    assert counts == [1, 1, 1]


class Blind(Weighted):
    """Its score has no gradient."""

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.round(images), axis=(1, 2, 3))


class Closed:
    """A detector that cannot be differentiated."""

    fprs = (0.05,)

    def threshold(self, fpr: float | None = None) -> float:
        return 1.0

    def score(self, images: npt.ArrayLike) -> FloatArray:
        return np.zeros(len(np.asarray(images)), np.float32)

    def detect(self, images: npt.ArrayLike) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    ("name", "given", "error", "told"),
    [
        ("SelectivePGD", None, ValueError, "SelectivePGD evades.*Received: None"),
        ("SelectivePGD", Closed(), ValueError, "a `tf_score`. Received: Closed"),
        ("SelectivePGD", Blind(), ValueError, "`tf_score` has a gradient"),
        ("NES", object(), TypeError, "`fprs`, `threshold`.*Received: object"),
        ("FGSM", detector(), ValueError, "FGSM takes none; .*HopSkipJump.*Weighted"),
    ],
)
def test_a_detector_that_does_not_suit_is_refused(
    name: str, given: Any, error: type[Exception], told: str
) -> None:
    made = create(name, eps=0.3)
    with pytest.raises(error, match=rf"`detector`\. .*{told}"):
        made(two_classes(), GREY, [0], detector=given)


class Broken(Weighted):
    """No number where the first pixel is above 0.8."""

    def score(self, images: npt.ArrayLike) -> FloatArray:
        found = super().score(images)
        return np.where(np.asarray(images)[:, 0, 0, 0] > 0.8, np.nan, found)


@pytest.mark.parametrize("name", ["SelectivePGD", "NES"])
def test_the_example_whose_score_is_no_number_is_named(name: str) -> None:
    images = np.repeat(GREY, 3, axis=0)
    images[1, 0, 0] = 0.95
    made = create(name, eps=0.1)
    told = r"Broken gave scores that are not finite, at the examples \[4\]"
    with pytest.raises(RuntimeError, match=told):
        made(two_classes(), images, [0] * 3, ids=[3, 4, 5], detector=Broken())


@pytest.mark.parametrize("name", NAMES)
def test_steps_beyond_the_ball_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"`eps_iter`. Expected at most eps=0.1"):
        create(name, eps=0.1, eps_iter=0.2)
