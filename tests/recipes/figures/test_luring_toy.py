import keras
import numpy as np
import pytest
from figures.luring_toy import (
    ZONES,
    luring_toy,
    toy_images,
    train_toy_lure,
    train_toy_target,
)

from keras_traps.models.inference import predict


@pytest.fixture(scope="module")
def target() -> keras.Model:
    return train_toy_target(toy_images(60, seed=0))


def test_an_image_has_pixels_in_the_zone_of_its_class_alone() -> None:
    images, labels = toy_images(31, seed=3)
    assert images.shape == (31, 12, 12, 1)
    assert images.dtype == np.float32
    inside = images[..., 0][ZONES[labels]]
    assert 0.3 <= inside.min() < 0.31
    assert 0.69 < inside.max() <= 0.7
    assert not images[..., 0][~ZONES[labels]].any()
    np.testing.assert_array_equal(np.bincount(labels), [11, 10, 10])
    # The zones never meet, and a quarter is nobody's.
    assert ZONES.sum(axis=0).max() == 1
    assert (~ZONES.any(axis=0)).sum() == 36
    np.testing.assert_array_equal(toy_images(31, seed=3).images, images)
    assert (toy_images(31, seed=4).images != images).any()


def test_the_target_weighs_the_pixels_of_a_zone_alike(target: keras.Model) -> None:
    assert not target.trainable_variables
    zones, scores = (target.get_layer(n).kernel.numpy() for n in ("zones", "scores"))
    np.testing.assert_array_equal(np.sign(scores), 2 * np.eye(3) - 1)
    weights = (zones @ scores).reshape(12, 12, 3)
    assert not weights[~ZONES.any(axis=0)].any()
    test = toy_images(60, seed=1)
    assert (predict(target, test.images).argmax(axis=1) == test.labels).all()


def test_a_lure_leaves_the_target_and_its_answers_and_is_drawn(
    target: keras.Model,
) -> None:
    train = toy_images(60, seed=0)
    before = [np.array(weight) for weight in target.weights]
    model = train_toy_lure(target, train, steps=60)
    for weight, old in zip(target.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    answers = predict(model, train.images).argmax(axis=1)
    assert (answers == train.labels).mean() >= 0.9

    result = luring_toy(model, toy_images(6, seed=1), eps=[0.3], nb_iter=20)
    assert list(result.pictures) == ["luring_figure2", "luring_figure3"]
    numbers = result.numbers
    assert numbers["accuracy"]["M"] == 1
    assert numbers["neutral_pixels"] == 36
    for name in ("opposite", "used_by_augmented_alone"):
        assert 0 < numbers[name] < 1
    rows = {(row["attack"], row["on"]): row for row in numbers["attacks"]}
    assert rows.keys() == {(a, on) for a in ("PGD", "TPGD") for on in ("M", "M∘P")}
    # What was made on M fools M: all that succeeded.
    for attack in ("PGD", "TPGD"):
        row = rows[attack, "M"]
        assert row["target_fooled"] == row["succeeds"] == 6
        assert row["target_right"] == 0
    assert rows["TPGD", "M"]["target_at_goal"] == 6
    for row in rows.values():
        assert row["target_fooled"] + row["target_right"] == row["succeeds"] <= 6
