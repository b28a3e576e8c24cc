from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import Batch, searches
from keras_traps.attacks.searches import OptMargin
from tests.attacks.nearest import distance_to_plane
from tests.attacks.victims import PIXELS, TWO_CLASSES, some_images, two_classes

PATIENT: dict[str, Any] = {
    "noise_count": 5,
    "noise_mag": 0.1,
    "initial_const": 0.1,
    "binary_search_steps": 9,
    "max_iterations": 300,
    "learning_rate": 0.01,
}


NORMAL = TWO_CLASSES[:, 0].astype(np.float64) - TWO_CLASSES[:, 1]


Floats = npt.NDArray[np.float32]


def batch(images: Floats, ids: list[int], seed: int = 0) -> Batch:
    return Batch(
        model=two_classes(),
        loss="cross_entropy",
        images=images,
        labels=np.zeros(len(images), np.int64),
        ids=np.array(ids),
        seed=seed,
        background=images,
    )


def some_noises(attack: OptMargin, ids: list[int], seed: int = 0) -> Floats:
    return attack.draws(batch(some_images(len(ids)), ids, seed))


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
    attack = OptMargin(**{**PATIENT, "noise_mag": 0.05}, all_noises=True)

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
    attack = OptMargin(**{**PATIENT, "noise_mag": 0.05}, all_noises=True)

    result = attack(two_classes(), images, [0] * 20, ids=ids)

    noisy = images[:, None] + some_noises(attack, ids)
    kept = (noisy.reshape(20, 5, PIXELS) @ NORMAL < 0).all(axis=1)
    assert 0 < kept.sum() < 20
    np.testing.assert_array_equal(result.images[kept], images[kept])
    np.testing.assert_array_equal(result.iterations > 0, ~kept)
    noisy = result.images[:, None] + some_noises(attack, ids)
    assert (noisy.reshape(20, 5, PIXELS) @ NORMAL < 1e-5).all()


def test_an_example_fares_alike_however_many_are_attacked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**PATIENT, "max_iterations": 20, "binary_search_steps": 3}
    attack, images = OptMargin(**settings), some_images(5)
    expected = attack(two_classes(), images[3:], [0, 0], ids=[3, 4])
    monkeypatch.setattr(searches, "_IMAGES_AT_ONCE", 5)

    result = attack(two_classes(), images, [0] * 5, batch_size=3)

    np.testing.assert_allclose(result.images[3:], expected.images, atol=1e-5)
    np.testing.assert_array_equal(result.iterations[3:], expected.iterations)


def test_more_noises_than_an_image_has_values_are_refused() -> None:
    expected = r"`noise_count`. Expected at most 7 .*Received: noise_count=8"
    with pytest.raises(ValueError, match=expected):
        OptMargin(noise_count=8)(two_classes(), some_images(2), [0, 0])
