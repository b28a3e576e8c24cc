import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import luring
import numpy as np
import pytest
from command_line import CommandLineError

from keras_traps import datasets
from keras_traps.luring.training import LURE_RECIPES

SMALL = ("--width=0.05", "--steps=4", "--variant=luring")


def run(workdir: Path, *arguments: str) -> None:
    luring.main(["train", f"--workdir={workdir}", *arguments])


def facts(workdir: Path, variant: str = "luring") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / f"{variant}.json").read_text())
    return found


@pytest.fixture
def fresh(workdir: Path) -> Path:
    """A folder where luring and the surrogate are still to be trained."""
    for name in ("luring", "surrogate"):
        for file in (f"{name}.keras", f"{name}.json", f".{name}.settings.json"):
            (workdir / file).unlink()
    return workdir


def test_a_surrogate_is_like_m_and_not_m(lured: Path) -> None:
    target, surrogate = (
        keras.saving.load_model(lured / f"{name}.keras", compile=False)
        for name in ("target", "surrogate")
    )
    assert [w.shape for w in surrogate.weights] == [w.shape for w in target.weights]
    assert not any(
        np.array_equal(a, b)
        for a, b in zip(
            surrogate.trainable_weights, target.trainable_weights, strict=True
        )
    )
    told = facts(lured, "surrogate")
    assert (told["own_seed"], told["seed"]) == (1, 0)
    assert told["test"] > 0.5


def test_a_short_schedule_is_told_with_its_rate(fresh: Path) -> None:
    run(fresh, *SMALL, "--schedule=short", "--peak_rate=0.5", "--batch_size=16")
    told = facts(fresh)
    assert (told["steps"], told["batch_size"], told["cosine"]) == (4, 16, True)
    assert told["learning_rates"] == [0.5]
    with pytest.raises(CommandLineError, match=r"batch_size, learning_rates differ"):
        run(fresh, *SMALL, "--schedule=short", "--resume")


def test_what_p_started_from_is_told_and_one_to_pick_from(fresh: Path) -> None:
    start = f"--start={fresh / 'auto.keras'}"
    with pytest.raises(CommandLineError, match="argument `start`"):
        run(fresh, "--width=0.1", "--steps=4", "--variant=luring", start)
    # What was refused leaves nothing behind that stands in the way.
    run(fresh, *SMALL, start, "--validation_split=0.2")
    told = facts(fresh)
    assert told["start_sha256"] == facts(fresh, "auto")["model"]
    assert told["picked_step"] in (0, 4)
    assert 0 <= told["validation_score"] <= 1


@pytest.mark.parametrize(("schedule", "share"), [("authors", 0.17), ("short", 0.0)])
def test_the_authors_schedule_picks_p_as_they_do(
    fresh: Path, schedule: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(LURE_RECIPES["digits"], validation_split=0.17)
    monkeypatch.setitem(LURE_RECIPES, "digits", recipe)
    run(fresh, *SMALL, "--stage=2", f"--schedule={schedule}")
    assert facts(fresh)["validation_split"] == share
    assert ("picked_step" in facts(fresh)) == bool(share)


def test_what_is_there_is_not_trained_again(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--width=0.05", "--variant=auto")
    with pytest.raises(CommandLineError, match="--resume"):
        run(workdir, *command, "--steps=100")
    run(workdir, *command, "--steps=100", "--resume")
    assert not capsys.readouterr().out
    # And what was trained otherwise is not passed off.
    with pytest.raises(CommandLineError, match="other settings: steps differ"):
        run(workdir, *command, "--steps=200", "--resume")


def test_images_of_another_kind_are_another_setting(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = datasets.load("digits", "train", None)
    others = dataclasses.replace(digits, pixels=digits.pixels[::-1])
    monkeypatch.setattr(datasets, "load", lambda *_: others)
    with pytest.raises(CommandLineError, match="train_data differ"):
        run(workdir, "--resume", "--variant=target", "--steps=60")


@pytest.mark.parametrize("variant", ["surrogate", "luring"])
def test_how_images_were_moved_is_told(fresh: Path, variant: str) -> None:
    moves = ("--rotation=10", "--shift=0.1", "--steps=4", "--width=0.05")
    run(fresh, f"--variant={variant}", *moves)
    told = facts(fresh, variant)
    assert (told["rotation"], told["shift"]) == (10.0, 0.1)


def test_lambda_is_no_part_of_the_alternative_loss(fresh: Path) -> None:
    run(fresh, *SMALL, "--loss=margin")
    assert facts(fresh)["loss"] == "margin"
    assert "luring_weight" not in facts(fresh)


def test_an_interrupted_training_goes_on_with_the_same_rounding_alone(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(fresh, fresh.with_name("whole")))
    run(whole, *SMALL, "--stage=2")
    steps: list[int] = []
    call = keras.callbacks.CallbackList.on_train_batch_end

    def killed(self: Any, *arguments: Any, **named: Any) -> None:
        call(self, *arguments, **named)
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks.CallbackList, "on_train_batch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            run(fresh, *SMALL, "--stage=2")
    with pytest.raises(CommandLineError, match="--resume"):
        run(fresh, *SMALL, "--stage=2")
    with monkeypatch.context() as patch:
        patch.setenv("TF_SET_ONEDNN_FPMATH_MODE", "BF16")
        with pytest.raises(CommandLineError, match="environment differ"):
            run(fresh, *SMALL, "--stage=2", "--resume")
    run(fresh, *SMALL, "--stage=2", "--resume")
    assert facts(fresh)["model"] == facts(whole)["model"]
    assert "environment" not in facts(fresh)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--variant=ce", "--peak_rate=0"), "--peak_rate: expected a number above 0"),
        (("--variant=ce", "--peak_rate=nan"), "--peak_rate: expected a number above 0"),
        (("--variant=ce", "--shift=1"), "--shift: expected a number .* below 1"),
        (("--validation_split=1",), "--validation_split: expected a number of at leas"),
        (("--variant=luring", "--luring_weight=-1"), "--luring_weight: expected a num"),
        (("--variant=all",), "--variant: expected one of target, surrogate, stack"),
        (("--variant=target", "--model={}/auto.keras"), "and --model names one"),
        (("--dataset=mnst",), "--dataset: expected one of mnist, svhn_cropped"),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: tuple[str, ...], expected: str, lured: Path
) -> None:
    with pytest.raises(CommandLineError, match=expected):
        run(lured, *(argument.format(lured) for argument in arguments))


def test_a_network_before_m_needs_m(tmp_path: Path) -> None:
    with pytest.raises(CommandLineError, match=r"no .*target\.keras: train it by --va"):
        run(tmp_path / "new", "--variant=ce")
