from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import AttackResult, Batch, create
from keras_traps.attacks.loop import fooled
from keras_traps.attacks.optimization import EAD, Constant, OptMargin, hinge
from tests.attacks.nearest import distance_to_plane, nearest_answer
from tests.attacks.victims import (
    PIXELS,
    SHAPE,
    TWO_CLASSES,
    linear,
    some_images,
    tanh_net,
    two_classes,
)

Floats = npt.NDArray[np.float32]

SHORT: dict[str, Any] = {
    "initial_const": 0.1,
    "binary_search_steps": 3,
    "max_iterations": 20,
    "learning_rate": 0.1,
}


def answers(model: keras.Model, images: Floats) -> npt.NDArray[np.int64]:
    return model(images).numpy().argmax(axis=1)


def attacked(
    name: str, model: keras.Model, images: Floats, **more: Any
) -> AttackResult:
    """Leads every image away from its class, to the next one if there is an aim."""
    made, classes = create(name, **{**SHORT, **more}), answers(model, images)
    aims = (classes + 1) % int(model.output_shape[1])
    return made(model, images, classes, y_target=aims if made.targeted else None)


@pytest.mark.parametrize("name", ["CW2", "EAD"])
def test_what_cannot_be_reached_leaves_the_clean_image(name: str) -> None:
    # The second class is never above the first: pixels are not below 0. The last search
    # weighs the penalty so much that the images turn black, where both logits are 0.
    images = some_images(3)
    model = linear(np.full((6, 2), [2.0, 1.0], np.float32))

    result = attacked(name, model, images, binary_search_steps=10)

    assert not result.success.any()
    np.testing.assert_array_equal(result.images, images)
    assert (result.iterations > 0).all()


def test_an_example_that_makes_no_progress_goes_on_to_its_next_c() -> None:
    model, images, long = tanh_net().model, some_images(6), {"max_iterations": 400}
    hasty = attacked("UCW2", model, images, **long)
    patient = attacked("UCW2", model, images, **long, abort_early=False)

    assert (hasty.iterations < patient.iterations).all()
    assert len(set(hasty.iterations)) > 1
    np.testing.assert_allclose(hasty.l2, patient.l2, rtol=0.01)


@pytest.mark.parametrize("name", ["CW2", "UCW2", "EAD"])
def test_an_answer_that_is_wanted_already_is_kept_if_it_leads_enough(name: str) -> None:
    model, images = two_classes(), some_images(20)
    seen = answers(model, images)
    before = np.ptp(model(images).numpy(), axis=1)
    confidence = float(np.median(before))
    made = create(name, **SHORT, confidence=confidence)

    result = made(model, images, 1 - seen, y_target=seen if made.targeted else None)

    enough = before > confidence
    assert 0 < enough.sum() < 20
    np.testing.assert_array_equal(result.images[enough], images[enough])
    np.testing.assert_array_equal(result.iterations > 0, ~enough)
    after = model(result.images).numpy()
    assert (after.argmax(axis=1) == seen).all()
    assert (np.ptp(after, axis=1)[~enough] >= confidence).all()
    assert (result.l2[~enough] > 0).all()


def search(found: list[bool], first: float, searches: int | None = None) -> list[float]:
    """Returns the c that are tried when they come out as `found`."""
    number = tf.constant(len(found) + 1 if searches is None else searches)
    constant = Constant.first(tf.constant(first), tf.constant(1))
    tried = [float(constant.value[0])]
    for answer in found:
        constant = constant.next(tf.constant([answer]), number)
        tried.append(float(constant.value[0]))
    return tried


@pytest.mark.parametrize(("searches", "last"), [(9, [1e4, 1e5]), (10, [1e5, 1e10])])
def test_the_last_of_ten_searches_is_for_the_penalty_alone_where_none_succeeded(
    searches: int, last: list[float]
) -> None:
    tried = search([False] * (searches - 1), 1e-3, searches)
    np.testing.assert_allclose(tried[-2:], last, rtol=1e-5)


def test_c_grows_tenfold_up_to_1e10_and_may_succeed_there() -> None:
    tried = search([False] * 10 + [True], 10.0)
    np.testing.assert_allclose(tried[-4:], [1e9, 1e10, 1e10, 1e10], rtol=1e-5)
    tried = search([False] * 9 + [True], 10.0)
    np.testing.assert_allclose(tried[-2:], [1e10, 5.5e9], rtol=1e-5)


def test_the_last_of_ten_searches_goes_on_where_one_succeeded() -> None:
    assert search([True] + [False] * 8, 1.0, 10)[-1] == pytest.approx(1 - 2.0**-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("targeted", [True, False])
def test_it_is_zero_where_the_attack_counts_as_a_success_only(
    targeted: bool, scale: float
) -> None:
    near = np.array([[1, 1 + 1e-6], [1 + 1e-6, 1], [1, 1.001], [1.001, 1]], np.float32)
    logits = near * np.float32(scale)
    arguments = tf.constant(logits), tf.zeros(4, tf.int64), tf.constant(targeted)
    success = fooled(*arguments).numpy()
    assert 0 < success.sum() < 4
    paid = hinge(*arguments, tf.constant(0.0))
    np.testing.assert_array_equal(paid.numpy() == 0, success)


NORMAL = TWO_CLASSES[:, 0].astype(np.float64) - TWO_CLASSES[:, 1]

PATIENT: dict[str, Any] = {
    "initial_const": 0.1,
    "binary_search_steps": 9,
    "max_iterations": 300,
    "learning_rate": 0.01,
}

SHRINKING: dict[str, Any] = {**PATIENT, "learning_rate": 0.05}
NEAR_THE_BOUNDS = (
    np.array([[0.9, 0.1, 0.5, 0.1, 0.05, 0.3], [1.0, 0.95, 0.5, 0.0, 0.1, 0.1]])
    .reshape(2, *SHAPE)
    .astype(np.float32)
)


def from_0_to_1(name: str, images: Floats, settings: dict[str, Any]) -> AttackResult:
    made, classes = create(name, **settings), np.zeros(len(images), int)
    aims = classes + 1 if made.targeted else None
    return made(two_classes(), images, classes, y_target=aims)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("CW2", PATIENT), ("UCW2", PATIENT), ("EAD", {**SHRINKING, "beta": 0.0})],
)
def test_the_change_is_the_shortest_way_to_the_boundary(
    name: str, settings: dict[str, Any]
) -> None:
    images = some_images(4)
    shortest = distance_to_plane(images, TWO_CLASSES, 0, 1)
    assert (shortest > 0).all()
    result = from_0_to_1(name, images, settings)

    assert result.success.all()
    assert (result.l2 > shortest).all()
    np.testing.assert_allclose(result.l2, shortest, rtol=0.01)
    # Along the normal: nothing depends on the third pixel.
    assert np.abs(result.images - images)[:, 0, 2].max() < 0.01


@pytest.mark.parametrize("name", ["CW2", pytest.param("UCW2", marks=pytest.mark.slow)])
def test_pixels_stop_at_the_bounds_and_others_make_up_for_it(name: str) -> None:
    nearest = [nearest_answer(image, TWO_CLASSES, 1) for image in NEAR_THE_BOUNDS]
    # The bounds do bind.
    assert all(image[1, 1, 0] < 1e-6 for image in nearest)

    # From black it is far in tanh space.
    settings = {**PATIENT, "learning_rate": 0.05, "max_iterations": 500}
    result = from_0_to_1(name, NEAR_THE_BOUNDS, settings)

    assert result.success.all()
    np.testing.assert_allclose(result.images, nearest, atol=0.05)
    shortest = np.linalg.norm((nearest - NEAR_THE_BOUNDS).reshape(2, -1), axis=1)
    np.testing.assert_allclose(result.l2, shortest, rtol=0.02)


def test_confidence_is_the_lead_of_the_answer() -> None:
    result = from_0_to_1("CW2", some_images(3), {**PATIENT, "confidence": 0.5})
    logits = two_classes()(result.images).numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], 0.5, atol=0.02)
    assert (logits[:, 1] - logits[:, 0] > 0.5).all()


def test_with_much_l1_only_the_pixel_that_counts_most_changes() -> None:
    images = some_images(4)
    settings = {**SHRINKING, "beta": 0.03, "decision_rule": "L1"}
    result = from_0_to_1("EAD", images, settings)

    assert result.success.all()
    np.testing.assert_array_equal(result.l0, [1] * 4)
    # The fifth pixel weighs 5 between the two classes.
    lead = images.reshape(4, -1) @ NORMAL
    np.testing.assert_allclose(result.linf, lead / 5, rtol=0.03)
    changed = np.abs(result.images - images).reshape(4, -1).argmax(axis=1)
    assert changed.tolist() == [4] * 4


@pytest.mark.slow
def test_each_rule_chooses_what_is_best_by_it() -> None:
    images, beta = some_images(6, seed=3), 0.02
    model = tanh_net().model
    seen = model(images).numpy().argmax(axis=1)
    settings = {**SHRINKING, "beta": beta}
    by_en, by_l1 = (
        EAD(**settings, decision_rule=rule)(
            model, images, seen, y_target=(seen + 1) % 3
        )
        for rule in ("EN", "L1")
    )
    np.testing.assert_array_equal(by_en.success, by_l1.success)
    l1_of_en, l1 = (
        np.abs(found.images - images).sum(axis=(1, 2, 3)) for found in (by_en, by_l1)
    )
    assert (by_en.l2**2 + beta * l1_of_en <= by_l1.l2**2 + beta * l1 + 1e-6).all()
    assert (l1 <= l1_of_en).all()
    assert (l1 < l1_of_en).any()


NOISY: dict[str, Any] = {**PATIENT, "noise_count": 5, "noise_mag": 0.1}


def some_noises(attack: OptMargin, ids: list[int]) -> Floats:
    images, numbers = some_images(len(ids)), np.array(ids)
    batch = Batch(two_classes(), "margin", images, numbers * 0, numbers, 0, images)
    return attack.draws(batch)


def test_noises_are_orthogonal_of_one_length_and_the_last_is_none() -> None:
    attack = OptMargin(noise_count=PIXELS + 1, noise_mag=0.25)
    noises = some_noises(attack, [0, 1]).reshape(2, PIXELS + 1, PIXELS)
    np.testing.assert_array_equal(noises[:, -1], np.zeros((2, PIXELS)))
    for one in noises[:, :-1]:
        products = one @ one.T
        np.testing.assert_allclose(products, products[0, 0] * np.eye(PIXELS), atol=1e-6)
        assert np.abs(one).max() == pytest.approx(0.25)


def test_the_change_leads_beyond_it_where_all_noises_have_to_be_misclassified() -> None:
    # Near enough to the boundary for noisy images not to be clipped.
    images, ids = some_images(4), [3, 1, 4, 5]
    images[:, 0, 0], images[:, 1, 1] = 0.3, 0.3
    attack = OptMargin(**{**NOISY, "noise_mag": 0.05}, all_noises=True)

    result = attack(two_classes(), images, [0] * 4, ids=ids)

    assert result.success.all()
    noises = some_noises(attack, ids).reshape(4, 5, PIXELS)
    # The noise that leads back furthest decides.
    back = (noises @ NORMAL).max(axis=1) / np.linalg.norm(NORMAL)
    shortest = distance_to_plane(images, TWO_CLASSES, 0, 1) + back
    np.testing.assert_allclose(result.l2, shortest, rtol=0.03)
    noisy = result.images[:, None].reshape(4, 1, PIXELS) + noises
    assert (noisy @ NORMAL < 0).all()


def test_an_image_is_kept_where_all_its_noises_are_misclassified_already() -> None:
    ids = list(range(20))
    flat = some_images(20).reshape(20, PIXELS).astype(np.float64)
    unit = NORMAL / np.linalg.norm(NORMAL)
    # All are misclassified, the later ones by more.
    flat -= (flat @ unit + np.linspace(0.001, 0.1, 20))[:, None] * unit
    images = flat.reshape(some_images(20).shape).astype(np.float32)
    attack = OptMargin(**{**NOISY, "noise_mag": 0.05}, all_noises=True)

    result = attack(two_classes(), images, [0] * 20, ids=ids)

    noisy = images[:, None] + some_noises(attack, ids)
    kept = (noisy.reshape(20, 5, PIXELS) @ NORMAL < 0).all(axis=1)
    assert 0 < kept.sum() < 20
    np.testing.assert_array_equal(result.images[kept], images[kept])
    np.testing.assert_array_equal(result.iterations > 0, ~kept)
    noisy = result.images[:, None] + some_noises(attack, ids)
    assert (noisy.reshape(20, 5, PIXELS) @ NORMAL < 1e-5).all()


def test_more_noises_than_an_image_has_values_are_refused() -> None:
    expected = r"`noise_count`. Expected at most 7 .*Received: noise_count=8"
    with pytest.raises(ValueError, match=expected):
        OptMargin(noise_count=8)(two_classes(), some_images(2), [0, 0])
