"""What all attacks that search over c share; `CW2` and `UCW2` stand for them."""

import functools
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import AttackResult, create
from tests.attacks.calling import compiled_parts
from tests.attacks.victims import (
    TWO_CLASSES,
    linear,
    some_images,
    tanh_net,
    two_classes,
)

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


@functools.cache
def scaled(scale: float) -> keras.Model:
    return linear(TWO_CLASSES * np.float32(scale))


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_example_fares_alike_in_any_batch(name: str, batch_size: int) -> None:
    model, images = tanh_net().model, some_images(7)
    whole = attacked(name, model, images)
    parts = attacked(name, model, images, batch_size=batch_size)
    np.testing.assert_allclose(parts.images, whole.images, atol=1e-5)
    np.testing.assert_array_equal(parts.iterations, whole.iterations)
    np.testing.assert_array_equal(parts.success, whole.success)
    assert whole.success.any()


def test_a_model_is_traced_once_for_all_batches_settings_and_aims() -> None:
    model, images = linear(TWO_CLASSES), some_images(7)
    attacked("CW2", model, images[:2])
    attacked("CW2", model, images, batch_size=3)
    others = {
        "initial_const": 1,
        "binary_search_steps": 2,
        "max_iterations": 5,
        "learning_rate": 1,
        "confidence": 1,
        "abort_early": False,
    }
    attacked("UCW2", model, images, settings=others)

    (search,) = compiled_parts(model).values()
    assert search.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_reached_leaves_the_clean_image(name: str) -> None:
    # The second class is never above the first: pixels are not below 0.
    images = some_images(3)

    result = attacked(name, all_above(), images)

    assert not result.success.any()
    np.testing.assert_array_equal(result.images, images)
    assert (result.iterations > 0).all()


@pytest.mark.parametrize("name", [*NAMES, "EAD"])
def test_a_tie_is_no_success_where_all_logits_are_zero(name: str) -> None:
    # The last search weighs the penalty so much that the images turn black.
    images = some_images(3)
    settings = {"binary_search_steps": 10, "max_iterations": 50}
    result = attacked(name, all_above(), images, settings=settings)
    assert not result.success.any()
    np.testing.assert_array_equal(result.images, images)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_is_the_one_wanted_already_takes_no_step(name: str) -> None:
    images = some_images(5)
    images[1::2, 1, 1] = 0
    seen = answers(two_classes(), images)
    assert seen.tolist() == [0, 1, 0, 1, 0]
    made = create(name, **SHORT)
    labels = np.zeros_like(seen)
    aims = np.ones_like(seen) if made.targeted else None

    result = made(two_classes(), images, labels, y_target=aims)

    right = seen == 0
    np.testing.assert_array_equal(result.images[~right], images[~right])
    np.testing.assert_array_equal(result.iterations == 0, ~right)
    assert result.success.all()


def test_all_of_a_batch_may_take_no_step() -> None:
    images = some_images(3)
    wrong = 1 - answers(two_classes(), images)
    result = create("UCW2", **SHORT)(two_classes(), images, wrong)
    np.testing.assert_array_equal(result.images, images)
    np.testing.assert_array_equal(result.iterations, [0, 0, 0])


def test_every_step_is_made_where_nothing_aborts() -> None:
    settings = {"abort_early": False, "binary_search_steps": 4, "max_iterations": 7}
    result = attacked("UCW2", tanh_net().model, some_images(3), settings=settings)
    np.testing.assert_array_equal(result.iterations, [28, 28, 28])


def test_an_example_that_makes_no_progress_goes_on_to_its_next_c() -> None:
    long = {"max_iterations": 1000}
    patient = attacked(
        "UCW2",
        tanh_net().model,
        some_images(6),
        settings={**long, "abort_early": False},
    )
    hasty = attacked("UCW2", tanh_net().model, some_images(6), settings=long)

    assert (hasty.iterations < patient.iterations).all()
    assert len(set(hasty.iterations)) > 1
    np.testing.assert_allclose(hasty.l2, patient.l2, rtol=0.01)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_scale_of_the_outputs_does_not_matter(name: str, scale: float) -> None:
    # At 1e4 a softmax has no gradient left; at 1e-3 small c are too small.
    images = some_images(4)
    settings = {"binary_search_steps": 12, "max_iterations": 200, "learning_rate": 0.01}
    plain = attacked(name, two_classes(), images, settings=settings)
    other = attacked(name, scaled(scale), images, output="scores", settings=settings)
    assert other.success.all()
    np.testing.assert_allclose(other.l2, plain.l2, rtol=0.02)


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


@pytest.mark.parametrize(
    "setting",
    [
        {"initial_const": 0},
        {"initial_const": np.inf},
        {"binary_search_steps": 0},
        {"binary_search_steps": 1.5},
        {"max_iterations": 0},
        {"max_iterations": True},
        {"learning_rate": 0},
        {"learning_rate": np.nan},
        {"confidence": -1},
    ],
)
def test_a_setting_out_of_its_range_is_refused(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=rf"argument `{name}`.*Received: {name}="):
        create("CW2", **setting)


def test_the_true_class_is_no_target() -> None:
    with pytest.raises(ValueError, match="other than the true class"):
        create("CW2")(two_classes(), some_images(2), [0, 1], y_target=[1, 1])
