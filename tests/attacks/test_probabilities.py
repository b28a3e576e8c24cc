"""Facts about attacks on models that end in a softmax."""

import keras
import numpy as np
import pytest

from keras_traps.attacks import create
from keras_traps.models.logits import is_logarithm, logits_model
from tests.attacks.calling import EVERY
from tests.attacks.victims import (
    SHAPE,
    TOWARDS_1,
    TWO_CLASSES,
    linear,
    some_images,
    with_softmax,
)


def test_probabilities_are_not_taken_for_logits() -> None:
    model = with_softmax(TWO_CLASSES, "dense")
    with pytest.raises(ValueError, match="do not look like logits"):
        create("FGSM", eps=0.1)(model, some_images(2), [0, 1])


@pytest.mark.parametrize(
    "kind", ["dense", "activation", "softmax", "operation", "cast", "tensorflow"]
)
def test_a_saturated_softmax_is_taken_off(kind: str) -> None:
    # The classes lie thousands apart: the softmax is 1 and 0 and has no gradient left.
    kernel = TWO_CLASSES * np.float32(1e4)
    images = some_images(4)
    model = with_softmax(kernel, kind)
    labels = model(images).numpy().argmax(axis=1)
    attack = create("FGSM", eps=0.1)

    result = attack(model, images, labels, output="probabilities", loss="margin")

    towards = np.where(labels[:, None, None, None] == 0, TOWARDS_1, -TOWARDS_1)
    expected = images + np.float32(0.1) * towards.astype(np.float32)
    np.testing.assert_array_equal(result.images, expected)
    # The probabilities themselves would have left the images as they were.
    naive = attack(model, images, labels, output="scores", loss="margin")
    np.testing.assert_array_equal(naive.images, images)


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("dense", 1),
        ("activation", 1),
        ("softmax", 1),
        ("hidden", 1),
        # Here the larger probability is rounded to 1.
        ("dense", 20),
        ("activation", 20),
        ("softmax", 20),
    ],
)
def test_probabilities_are_attacked_as_their_logits_are(kind: str, scale: int) -> None:
    kernel = TWO_CLASSES * np.float32(scale)
    images = some_images(6)
    labels = np.array([0, 1] * 3)
    attack = create("BIM", eps=0.1, eps_iter=0.05, nb_iter=3)

    result = attack(with_softmax(kernel, kind), images, labels, output="probabilities")

    expected = attack(linear(kernel), images, labels)
    np.testing.assert_array_equal(result.images, expected.images)
    assert (result.l0 == 5).all()
    np.testing.assert_array_equal(result.success, expected.success)


def test_an_unknown_last_layer_is_attacked_where_a_probability_rounds_to_one() -> None:
    model = with_softmax(TWO_CLASSES * np.float32(20), "hidden")
    images = some_images(4)
    probabilities = model(images).numpy()
    labels = probabilities.argmax(axis=1)
    assert (probabilities.max(axis=1) == 1).any()

    result = create("FGSM", eps=0.1)(model, images, labels, output="probabilities")

    towards = np.where(labels[:, None, None, None] == 0, TOWARDS_1, -TOWARDS_1)
    expected = images + np.float32(0.1) * towards.astype(np.float32)
    np.testing.assert_array_equal(result.images, expected)


@pytest.mark.parametrize("name", ["UMIFGSM", "SPSA", "BPDA"])
def test_an_unknown_last_layer_is_refused_where_a_probability_is_zero(
    name: str,
) -> None:
    model = with_softmax(TWO_CLASSES * np.float32(1e4), "hidden")
    images = some_images(4)
    assert (model(images).numpy().min(axis=1) == 0).all()
    with pytest.raises(ValueError, match=r"at 4 of 4 images.*output=\"logits\""):
        create(name, **EVERY[name])(model, images, [0, 1] * 2, output="probabilities")


def test_one_sure_image_of_many_is_found_behind_an_unknown_last_layer() -> None:
    model = with_softmax(TWO_CLASSES * np.float32(10), "hidden")
    # At grey images the classes lie 12 apart, at this one more than 70.
    images = np.full((50, *SHAPE), 0.5, np.float32)
    images[41] = (1 - TOWARDS_1[0]) / 2
    assert (model(images).numpy().min(axis=1) < 1e-30).nonzero()[0].tolist() == [41]
    with pytest.raises(ValueError, match="at 1 of 50 images, the first at index 41"):
        create("FGSM", eps=0.1)(model, images, [0] * 50, output="probabilities")


def test_analysis_takes_what_an_attack_refuses() -> None:
    model = with_softmax(TWO_CLASSES * np.float32(1e4), "hidden")
    logits = logits_model(model, "probabilities")
    assert is_logarithm(logits)
    assert np.isfinite(logits(some_images(4))).all()


def test_a_logarithm_is_told_from_logits() -> None:
    plain = with_softmax(TWO_CLASSES, "softmax")
    assert not is_logarithm(logits_model(plain, "probabilities"))
    hidden = with_softmax(TWO_CLASSES, "hidden")
    image = keras.Input(SHAPE)
    wrapped = keras.Model(image, hidden(keras.layers.Rescaling(0.5)(image)))
    assert is_logarithm(logits_model(wrapped, "probabilities"))
