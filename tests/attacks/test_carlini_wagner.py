from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import AttackResult, create
from tests.attacks.nearest import distance_to_plane, nearest_answer
from tests.attacks.victims import SHAPE, TWO_CLASSES, some_images, two_classes

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


def from_0_to_1(
    name: str, images: npt.NDArray[np.float32], settings: dict[str, Any]
) -> AttackResult:
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
