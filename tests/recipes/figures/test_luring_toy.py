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


def test_an_image_has_pixels_in_the_zone_of_its_class_alone() -> None:
    images, labels = toy_images(31, seed=3)
    inside = images[..., 0][ZONES[labels]]
    assert 0.3 <= inside.min() < 0.31
    assert 0.69 < inside.max() <= 0.7
    assert not images[..., 0][~ZONES[labels]].any()
    assert ZONES[0, 0, 0] & ZONES[1, 0, 11] & ZONES[2, 11, 0]
    # A quarter is nobody's.
    assert ZONES.sum(axis=(1, 2)).tolist() == [36] * 3


@pytest.mark.slow
def test_a_lure_leaves_the_target_and_its_answers_and_is_drawn() -> None:
    train, test = toy_images(60, seed=0), toy_images(6, seed=1)
    target = train_toy_target(train)
    zones, scores = (target.get_layer(n).kernel.numpy() for n in ("zones", "scores"))
    np.testing.assert_array_equal(np.sign(scores), 2 * np.eye(3) - 1)
    assert not (zones @ scores).reshape(12, 12, 3)[~ZONES.any(axis=0)].any()

    model = train_toy_lure(target, train, steps=60)
    np.testing.assert_array_equal(target.get_layer("scores").kernel, scores)
    answers = predict(model, train.images).argmax(axis=1)
    assert (answers == train.labels).mean() >= 0.9

    result = luring_toy(model, test, eps=[0.3], nb_iter=20)
    assert list(result.pictures) == ["luring_figure2", "luring_figure3"]
    numbers = result.numbers
    assert (numbers["accuracy"]["M"], numbers["neutral_pixels"]) == (1, 36)
    for name in ("opposite", "used_by_augmented_alone"):
        assert 0 < numbers[name] < 1
    rows = {(row["attack"], row["on"]): row for row in numbers["attacks"]}
    # What was made on M fools M: all that succeeded.
    for attack in ("PGD", "TPGD"):
        row = rows[attack, "M"]
        assert row["target_fooled"] == row["succeeds"] == 6
    assert rows["TPGD", "M"]["target_at_goal"] == 6
    for row in rows.values():
        assert row["target_fooled"] + row["target_right"] == row["succeeds"] <= 6
