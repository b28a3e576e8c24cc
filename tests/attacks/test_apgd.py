from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps.attacks import create
from keras_traps.attacks.apgd import checkpoint_gaps, targeted_dlr
from keras_traps.attacks.loop import rivals_lead
from keras_traps.datasets import Dataset
from tests.attacks.victims import (
    SHAPE,
    TOWARDS_1,
    TWO_CLASSES,
    linear,
    some_images,
    tanh_net,
    two_classes,
)

LOGITS = np.array([[1.0, 5.0, 2.0, -1.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]], np.float32)


def test_the_checkpoints_are_the_authors() -> None:
    gaps = [gap for gap in checkpoint_gaps(100) if gap]
    assert gaps == [22, 19, 16, 13, 10, 7, 6, 6]
    steps = np.flatnonzero(checkpoint_gaps(100)) + 1
    np.testing.assert_array_equal(steps, [22, 41, 57, 70, 80, 87, 93, 99])


@pytest.mark.parametrize("nb_iter", [1, 2, 7, 20, 50, 100, 150, 500, 1000])
def test_any_number_of_steps_has_checkpoints_as_the_authors_code(nb_iter: int) -> None:
    k, shortest = max(int(0.22 * nb_iter), 1), max(int(0.06 * nb_iter), 1)
    less, since, expected = max(int(0.03 * nb_iter), 1), 0, []
    for _ in range(nb_iter):
        since += 1
        expected.append(k if since == k else 0)
        if since == k:
            k, since = max(k - less, shortest), 0
    assert checkpoint_gaps(nb_iter) == expected


def test_the_ratio_of_logits_divides_by_the_lead_over_the_third() -> None:
    # Right: 2 - 5 by 5 - 1; wrong: 5 - 2 by the same.
    for label, expected in ((1, -3 / 4), (2, 3 / 4)):
        ratio = rivals_lead(tf.constant(LOGITS), tf.constant([label, 0]), "dlr")
        np.testing.assert_allclose(ratio, [expected, 0.0], rtol=1e-6)


def test_the_targeted_ratio_divides_by_the_lead_over_the_third_and_fourth() -> None:
    labels, targets = tf.constant([1, 0]), tf.constant([3, 1])
    ratio = targeted_dlr(tf.constant(LOGITS), labels, targets)
    np.testing.assert_allclose(ratio, [(-1 - 5) / (5 - (1 + 0) / 2), 0.0], rtol=1e-6)


def test_no_scale_or_shift_of_the_logits_changes_a_ratio() -> None:
    labels, targets = tf.constant([1, 0]), tf.constant([3, 1])

    def ratios(logits: Any) -> list[tf.Tensor]:
        given = tf.constant(logits)
        ratio = rivals_lead(given, labels, "dlr")
        return [ratio, targeted_dlr(given, labels, targets)]

    for moved in (LOGITS * 1000, LOGITS / 1000, LOGITS - 7):
        np.testing.assert_allclose(ratios(moved), ratios(LOGITS), rtol=1e-5, atol=1e-6)


def test_too_few_classes_have_no_ratio() -> None:
    logits, labels = tf.constant(LOGITS[:, :3]), tf.constant([1, 0])
    np.testing.assert_array_equal(
        rivals_lead(logits[:, :2], labels, "dlr"),
        rivals_lead(logits[:, :2], labels, "margin"),
    )
    np.testing.assert_array_equal(
        targeted_dlr(logits, labels, tf.constant([2, 1])),
        -rivals_lead(logits, tf.constant([2, 1]), "cross_entropy"),
    )
    assert "fewer than four classes" in create("APGD-T", eps=0.1).note


# The logits' difference is linear: no point of the ball has more than the best corner,
# or than the point along the gradient.
SLOPE = (TWO_CLASSES[:, 1] - TWO_CLASSES[:, 0]).reshape(1, *SHAPE)
MARGIN = {"Linf": np.abs(SLOPE).sum(), "L2": np.linalg.norm(SLOPE)}


def lead_of_0(images: Any) -> npt.NDArray[np.floating]:
    outputs = two_classes()(images).numpy().astype(np.float64)
    lead: npt.NDArray[np.floating] = outputs[:, 0] - outputs[:, 1]
    return lead


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["APGD", "APGD-T"])
def test_a_linear_model_falls_in_every_ball_that_reaches_its_boundary(
    name: str, norm: str
) -> None:
    images = some_images(6)
    for image, radius in zip(images, lead_of_0(images) / MARGIN[norm], strict=True):
        best = TOWARDS_1 if norm == "Linf" else SLOPE / MARGIN["L2"]
        optimum = image + radius * best
        # No pixel is cut off.
        assert 0 < optimum.min() < optimum.max() < 1
        for share, falls in ((1.001, True), (0.999, False)):
            made = create(name, eps=share * radius, norm=norm, nb_iter=60)
            result = made(two_classes(), image[None], [0])
            assert result.success.tolist() == [falls]
            if not falls:
                np.testing.assert_array_equal(result.images, image[None])
                assert result.iterations.tolist() == [60]


def test_a_success_at_the_corner_is_the_corner() -> None:
    image = some_images(1)
    radius = float(lead_of_0(image)[0] / MARGIN["Linf"]) * 1.0001
    result = create("APGD", eps=radius)(two_classes(), image, [0])
    depends = TOWARDS_1 != 0
    corner = image + radius * TOWARDS_1
    assert result.success.all()
    np.testing.assert_allclose(
        result.images[depends], corner[depends], atol=2e-3 * radius
    )


@pytest.mark.parametrize("name", ["APGD", "APGD-T", "FAB"])
def test_what_is_answered_wrong_already_costs_nothing(name: str) -> None:
    images = some_images(4)
    result = create(name, eps=0.1)(two_classes(), images, [1] * 4)
    np.testing.assert_array_equal(result.images, images)
    np.testing.assert_array_equal(result.iterations, 0)
    assert result.success.all()


@pytest.mark.parametrize("name", ["APGD-T", "FAB"])
def test_a_rival_is_tried_after_the_other_and_there_are_no_more_than_others(
    name: str,
) -> None:
    image = np.full((1, *SHAPE), 0.5, np.float32)
    far = np.zeros((6, 4), np.float32)
    # Near in the logits, out of reach in the ball, are all but the last class.
    far[:, 0], far[:, 3] = [2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.9]
    model = linear(far)
    settings = {"eps": 0.05, "nb_iter": 10}
    assert model(image).numpy().argsort()[0].tolist()[-2:] == [3, 0]
    first = create(name, **settings, nb_targets=1)(model, image, [0])
    assert first.success.all()
    # With a radius too small all three are tried, however many are asked for.
    weak = create(name, **{**settings, "eps": 0.001}, nb_targets=9)(model, image, [0])
    assert not weak.success.any()
    assert weak.iterations.tolist() == [30]


def hidden_route() -> keras.Model:
    """Class 2 is the likelier rival, and cannot be reached; class 1 can."""
    kernel = np.zeros((6, 4), np.float32)
    kernel[:, 0], kernel[:, 1] = 1, [5, -5, 5, -5, 5, -5]
    kernel[:, 2], kernel[:, 3] = 0.95, 0.5
    return linear(kernel)


@pytest.mark.parametrize("name", ["APGD-T", "FAB"])
def test_a_later_rival_fools_where_the_first_does_not(name: str) -> None:
    image = np.full((1, *SHAPE), 0.5, np.float32)
    settings, model = {"eps": 0.15, "nb_iter": 20}, hidden_route()
    one, all_three = (
        create(name, **settings, nb_targets=count)(model, image, [0])
        for count in (1, 3)
    )
    assert not one.success.any()
    assert all_three.success.all()
    assert all_three.answers.tolist() == [1]


def test_more_starts_are_made_only_where_the_first_failed() -> None:
    net = tanh_net().model
    images = some_images(40)
    labels = net(images).numpy().argmax(axis=1)
    one, three = (
        create("APGD", eps=0.05, nb_iter=5, nb_restarts=count)(net, images, labels)
        for count in (1, 3)
    )
    done = one.success
    assert 0 < done.sum() < len(images)
    np.testing.assert_array_equal(three.images[done], one.images[done])
    np.testing.assert_array_equal(three.iterations[done], one.iterations[done])
    lost = three.iterations[~three.success]
    np.testing.assert_array_equal(lost, 15)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_it_fools_at_least_as_many_as_projected_steps_of_one_length(
    norm: str, digits_classifier: keras.Model, digits_test: Dataset
) -> None:
    images, labels = digits_test.images[:40], digits_test.labels[:40]
    eps, ball = (0.1, "PGD") if norm == "Linf" else (0.5, "cleverhans/PGD")
    steps: dict[str, Any] = {"eps": eps, "eps_iter": eps / 10, "nb_iter": 40}
    if ball != "PGD":
        steps["norm"] = norm
    plain = create(ball, **steps)(digits_classifier, images, labels)
    assert 0.1 < plain.success.mean() < 1
    for name in ("APGD", "APGD-T"):
        made = create(name, eps=eps, norm=norm)
        result = made(digits_classifier, images, labels)
        assert result.success.sum() >= plain.success.sum()
