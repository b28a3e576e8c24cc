from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import AttackResult, Batch, create
from keras_traps.attacks.optimization import EAD, OptMargin
from tests.attacks.nearest import distance_to_plane, nearest_answer
from tests.attacks.victims import (
    PIXELS,
    SHAPE,
    TWO_CLASSES,
    some_images,
    tanh_net,
    two_classes,
)

Floats = npt.NDArray[np.float32]

NORMAL = TWO_CLASSES[:, 0].astype(np.float64) - TWO_CLASSES[:, 1]

PATIENT: dict[str, Any] = {
    "initial_const": 0.1,
    "binary_search_steps": 9,
    "max_iterations": 300,
    "learning_rate": 0.01,
}

NEAR_THE_BOUNDS = (
    np.array([[0.9, 0.1, 0.5, 0.1, 0.05, 0.3], [1.0, 0.95, 0.5, 0.0, 0.1, 0.1]])
    .reshape(2, *SHAPE)
    .astype(np.float32)
)


def from_0_to_1(name: str, images: Floats, settings: dict[str, Any]) -> AttackResult:
    made, classes = create(name, **settings), np.zeros(len(images), int)
    aims = classes + 1 if made.targeted else None
    return made(two_classes(), images, classes, y_target=aims)


@pytest.mark.parametrize("name", ["CW2", "UCW2"])
def test_the_change_is_the_shortest_way_to_the_boundary(name: str) -> None:
    images = some_images(4)
    shortest = distance_to_plane(images, TWO_CLASSES, 0, 1)
    assert (shortest > 0).all()
    result = from_0_to_1(name, images, PATIENT)

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


SHRINKING: dict[str, Any] = {**PATIENT, "learning_rate": 0.05}


def test_without_l1_the_change_is_the_shortest_way_to_the_boundary() -> None:
    images = some_images(4)
    result = from_0_to_1("EAD", images, {**SHRINKING, "beta": 0.0})
    assert result.success.all()
    shortest = distance_to_plane(images, TWO_CLASSES, 0, 1)
    np.testing.assert_allclose(result.l2, shortest, rtol=0.01)


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
