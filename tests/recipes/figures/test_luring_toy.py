import json
from pathlib import Path

import numpy as np
import pytest
from absl import app, flags

from keras_traps.luring.toy import (
    ZONES,
    toy_images,
    train_toy_lure,
    train_toy_target,
)
from keras_traps.models.inference import predict
from recipes import luring_toy


def run(*arguments: str) -> None:
    values = luring_toy.define_flags(flags.FlagValues())
    luring_toy.main(values(["luring_toy", *arguments]), values)


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


def test_the_target_weighs_the_pixels_of_a_zone_alike() -> None:
    train = toy_images(60, seed=0)
    target = train_toy_target(train)
    assert not target.trainable_variables
    zones, scores = (target.get_layer(n).kernel.numpy() for n in ("zones", "scores"))
    np.testing.assert_array_equal(np.sign(scores), 2 * np.eye(3) - 1)
    weights = (zones @ scores).reshape(12, 12, 3)
    assert not weights[~ZONES.any(axis=0)].any()
    test = toy_images(60, seed=1)
    assert (predict(target, test.images).argmax(axis=1) == test.labels).all()


def test_a_lure_leaves_the_target_and_its_answers() -> None:
    train = toy_images(60, seed=0)
    target = train_toy_target(train)
    before = [np.array(weight) for weight in target.weights]
    model = train_toy_lure(target, train, steps=60)
    for weight, old in zip(target.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    answers = predict(model, train.images).argmax(axis=1)
    assert (answers == train.labels).mean() >= 0.9


def test_figures_and_numbers_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "toy"
    run(f"--output={output}", "--steps=20", "--num_examples=6", "--eps=0.3")
    found = json.loads((output / "luring_toy.json").read_text())
    numbers = found["numbers"]
    assert numbers["accuracy"]["M"] == 1
    for name in ("opposite", "used_by_augmented_alone"):
        assert 0 <= numbers[name] <= 1
    rows = {(row["attack"], row["on"]): row for row in numbers["attacks"]}
    assert rows.keys() == {(a, on) for a in ("PGD", "TPGD") for on in ("M", "M∘P")}
    # What was made on M fools M: all that succeeded.
    for attack in ("PGD", "TPGD"):
        row = rows[attack, "M"]
        assert row["target_fooled"] == row["succeeds"] == 6
        assert row["target_right"] == 0
    for row in rows.values():
        assert row["target_fooled"] + row["target_right"] == row["succeeds"] <= 6
    assert found["provenance"]["seed"] == 0
    for figure in ("luring_figure2", "luring_figure3"):
        picture = (output / "figures" / f"{figure}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    text = (output / "luring_toy.md").read_text()
    assert "figures/luring_figure3.png" in text
    assert str(tmp_path) not in text
    printed = capsys.readouterr().out
    assert "accuracy of M: 100.0%" in printed
    assert f"Written: {output / 'luring_toy.md'}" in printed


def test_a_wrong_command_line_is_told(tmp_path: Path) -> None:
    with pytest.raises(app.UsageError, match="flags only"):
        run(f"--output={tmp_path / 'x'}", "mnist")
    assert not (tmp_path / "x").exists()
    with pytest.raises(flags.IllegalFlagValueError):
        run("--num_examples=2")
