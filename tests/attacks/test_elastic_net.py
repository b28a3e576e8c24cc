from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import AttackResult
from keras_traps.attacks.searches import EAD
from tests.attacks.nearest import distance_to_plane
from tests.attacks.victims import TWO_CLASSES, some_images, tanh_net, two_classes

PATIENT: dict[str, Any] = {
    "initial_const": 0.1,
    "binary_search_steps": 9,
    "max_iterations": 300,
    "learning_rate": 0.05,
}


Floats = npt.NDArray[np.float32]


def towards_1(images: Floats, **settings: Any) -> AttackResult:
    count = len(images)
    return EAD(**{**PATIENT, **settings})(
        two_classes(), images, [0] * count, y_target=[1] * count
    )


def lengths(result: AttackResult, images: Floats, beta: float) -> tuple[Floats, Floats]:
    """Returns the elastic-net and the L1 distances."""
    change = (result.images - images).reshape(len(images), -1)
    l1 = np.abs(change).sum(axis=1)
    return (change**2).sum(axis=1) + beta * l1, l1


def test_without_l1_the_change_is_the_shortest_way_to_the_boundary() -> None:
    images = some_images(4)
    result = towards_1(images, beta=0.0)
    assert result.success.all()
    shortest = distance_to_plane(images, TWO_CLASSES, 0, 1)
    np.testing.assert_allclose(result.l2, shortest, rtol=0.01)


def test_with_much_l1_only_the_pixel_that_counts_most_changes() -> None:
    images = some_images(4)
    result = towards_1(images, beta=0.03, decision_rule="L1")

    assert result.success.all()
    np.testing.assert_array_equal(result.l0, [1] * 4)
    # The fifth pixel weighs 5 between the two classes.
    lead = distance_to_plane(images, TWO_CLASSES, 0, 1) * np.linalg.norm(
        TWO_CLASSES[:, 0] - TWO_CLASSES[:, 1]
    )
    _, l1 = lengths(result, images, 0)
    np.testing.assert_allclose(l1, lead / 5, rtol=0.03)
    changed = np.abs(result.images - images).reshape(4, -1).argmax(axis=1)
    assert changed.tolist() == [4] * 4


@pytest.mark.slow
def test_each_rule_chooses_what_is_best_by_it() -> None:
    images, beta = some_images(6, seed=3), 0.02
    model = tanh_net().model
    seen = model(images).numpy().argmax(axis=1)
    found = {
        rule: EAD(**PATIENT, beta=beta, decision_rule=rule)(
            model, images, seen, y_target=(seen + 1) % 3
        )
        for rule in ("EN", "L1")
    }
    by_en, by_l1 = found["EN"], found["L1"]
    np.testing.assert_array_equal(by_en.success, by_l1.success)
    elastic = lengths(by_en, images, beta)[0], lengths(by_l1, images, beta)[0]
    l1 = lengths(by_en, images, beta)[1], lengths(by_l1, images, beta)[1]
    assert (elastic[0] <= elastic[1]).all()
    assert (l1[1] <= l1[0]).all()
    assert (l1[1] < l1[0]).any()
