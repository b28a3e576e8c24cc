from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import AttackResult
from keras_traps.attacks.deepfool import DeepFool
from tests.attacks.victims import (
    SHAPE,
    TWO_CLASSES,
    Floats,
    TanhNet,
    linear,
    some_images,
    tanh_net,
    two_classes,
)

NORMAL = (TWO_CLASSES[:, 1] - TWO_CLASSES[:, 0]).astype(np.float64)


# The second class is the likelier rival of the first, the third the nearer one.
THREE_CLASSES = np.array(
    [[1.0, 0.0, 0.0], [0.0, 1.1, 0.0], [0.0, 0.0, 6.0], [0.5, 0, -3], [0] * 3, [0] * 3],
    np.float32,
)

LIKELY_ZERO = np.array([0.9, 0.7, 0.2, 0.4, 0.5, 0.5], np.float32).reshape(1, *SHAPE)


def answers(model: keras.Model, images: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return model(images).numpy().argmax(axis=1)


def attack(
    model: keras.Model, images: npt.NDArray[Any], **settings: Any
) -> AttackResult:
    return DeepFool(**settings)(model, images, answers(model, images))


def test_a_linear_model_is_crossed_at_the_nearest_point_of_its_boundary() -> None:
    images = some_images(20)
    result = attack(two_classes(), images)

    # f / |w| along the normal, 1e-4 and 2 % beyond.
    gap = images.reshape(20, -1) @ NORMAL
    length = np.abs(gap) / np.linalg.norm(NORMAL) + 1e-4
    step = -np.sign(gap) * length / np.linalg.norm(NORMAL)
    expected = images + 1.02 * (step[:, None] * NORMAL).reshape(images.shape)
    np.testing.assert_allclose(result.images, expected, atol=1e-6)
    np.testing.assert_allclose(result.l2, 1.02 * length, rtol=1e-4)
    assert result.success.all()
    assert result.iterations.tolist() == [1] * 20


@pytest.mark.parametrize(("nb_candidate", "reached"), [(10, 2), (9, 2), (2, 1)])
def test_the_nearest_of_the_candidates_is_reached(
    nb_candidate: int, reached: int
) -> None:
    model = linear(THREE_CLASSES)
    logits = model(LIKELY_ZERO).numpy()[0]
    assert np.argsort(logits).tolist() == [2, 1, 0]

    result = attack(model, LIKELY_ZERO, nb_candidate=nb_candidate)

    assert answers(model, result.images).tolist() == [reached]
    normal = THREE_CLASSES[:, reached] - THREE_CLASSES[:, 0]
    distance = (logits[0] - logits[reached]) / np.linalg.norm(normal)
    assert result.l2[0] == pytest.approx(1.02 * (distance + 1e-4), rel=1e-4)


def transcribed(
    net: TanhNet, image: Floats, label: int, max_iter: int
) -> tuple[Floats, int]:
    """The paper's algorithm 2 with the overshoot of its code, clipped, in float64."""
    clean, total = image.reshape(-1), np.zeros(image.size)
    moved = clean
    for step in range(max_iter):
        hidden = np.tanh(moved @ net.first)
        logits = hidden @ net.second
        if logits.argmax() != label:
            return moved.reshape(image.shape), step
        slopes = (net.first * (1 - hidden**2)) @ net.second
        normals = np.delete(slopes - slopes[:, [label]], label, axis=1)
        gaps = np.delete(logits[label] - logits, label)
        lengths = np.linalg.norm(normals, axis=0)
        nearest = (gaps / lengths).argmin()
        length = gaps[nearest] / lengths[nearest] + 1e-4
        total = total + length * normals[:, nearest] / lengths[nearest]
        total = np.clip(clean + total, 0, 1) - clean
        moved = np.clip(clean + 1.02 * total, 0, 1)
    over = (np.tanh(moved @ net.first) @ net.second).argmax() != label
    return (moved if over else clean).reshape(image.shape), max_iter


@pytest.mark.parametrize("max_iter", [1, 2, 50])
def test_it_is_the_papers_algorithm(max_iter: int) -> None:
    net = tanh_net()
    images = np.random.default_rng(5).random((60, *SHAPE), np.float32)
    labels = answers(net.model, images)

    result = attack(net.model, images, max_iter=max_iter)

    parts = [
        transcribed(net, image.astype(np.float64), label, max_iter)
        for image, label in zip(images, labels, strict=True)
    ]
    expected = np.stack([moved for moved, _ in parts])
    # Where the search failed, it failed in both: the clean image.
    np.testing.assert_allclose(result.images, expected, atol=1e-4)
    assert result.iterations.tolist() == [steps for _, steps in parts]
    assert result.success.sum() == (expected != images).any(axis=(1, 2, 3)).sum()
    if max_iter == 1:
        # Otherwise the last line would prove less than it says.
        assert 0 < result.success.sum() < 60


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_logits_does_not_matter(scale: float) -> None:
    images = some_images(10)
    model = linear(TWO_CLASSES * np.float32(scale))
    scaled, plain = attack(model, images), attack(two_classes(), images)
    np.testing.assert_allclose(scaled.images, plain.images, atol=1e-6)
    assert scaled.success.all()


def test_a_model_without_slope_is_given_up_after_one_step() -> None:
    images = some_images(2)
    result = attack(linear(np.zeros((6, 3), np.float32)), images)
    np.testing.assert_array_equal(result.images, images)
    assert result.iterations.tolist() == [1, 1]
    assert not result.success.any()
