"""What all attacks that search over c share; `CW2` and `UCW2` stand for them."""

import functools
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import AttackResult, create
from keras_traps.attacks.loop import fooled
from keras_traps.attacks.optimization import Constant, hinge
from tests.attacks.victims import linear, some_images, tanh_net, two_classes

SHORT: dict[str, Any] = {
    "initial_const": 0.1,
    "binary_search_steps": 3,
    "max_iterations": 20,
    "learning_rate": 0.1,
}

NAMES = ["CW2", "UCW2"]

Floats = npt.NDArray[np.float32]


@functools.cache
def all_above() -> keras.Model:
    return linear(np.full((6, 2), [2.0, 1.0], np.float32))


def answers(model: keras.Model, images: Floats) -> npt.NDArray[np.int64]:
    return model(images).numpy().argmax(axis=1)


def attacked(
    name: str, model: keras.Model, images: Floats, **more: Any
) -> AttackResult:
    """Leads every image away from its class, to the next one if there is an aim."""
    made = create(name, **{**SHORT, **more.pop("settings", {})})
    classes = answers(model, images)
    aims = (classes + 1) % int(model.output_shape[1])
    return made(
        model, images, classes, y_target=aims if made.targeted else None, **more
    )


@pytest.mark.parametrize("name", ["CW2", "EAD"])
def test_what_cannot_be_reached_leaves_the_clean_image(name: str) -> None:
    # The second class is never above the first: pixels are not below 0. The last search
    # weighs the penalty so much that the images turn black, where both logits are 0.
    images = some_images(3)
    settings = {"binary_search_steps": 10}

    result = attacked(name, all_above(), images, settings=settings)

    assert not result.success.any()
    np.testing.assert_array_equal(result.images, images)
    assert (result.iterations > 0).all()


def test_an_example_that_makes_no_progress_goes_on_to_its_next_c() -> None:
    hasty, patient = (
        attacked(
            "UCW2",
            tanh_net().model,
            some_images(6),
            settings={"max_iterations": 400, "abort_early": abort_early},
        )
        for abort_early in (True, False)
    )

    assert (hasty.iterations < patient.iterations).all()
    assert len(set(hasty.iterations)) > 1
    np.testing.assert_allclose(hasty.l2, patient.l2, rtol=0.01)


@pytest.mark.parametrize("name", [*NAMES, "EAD"])
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
