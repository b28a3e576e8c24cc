import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import luring
import numpy as np
import pytest

from keras_traps.commands.command_line import CommandLineError
from keras_traps.luring.schedules import LURE_RECIPES

SMALL = ("--width=0.05", "--steps=4")


def run(workdir: Path, *arguments: str) -> None:
    luring.main(["train", f"--workdir={workdir}", *arguments])


def facts(workdir: Path, variant: str = "luring") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / f"{variant}.json").read_text())
    return found


@pytest.fixture
def fresh(workdir: Path) -> Path:
    """A folder where all but M is still to be trained; `start.keras` is a P."""
    (workdir / "auto.keras").rename(workdir / "start.keras")
    for name in ("auto", "luring", "surrogate"):
        for path in workdir.glob(f"*{name}.*"):
            path.unlink()
    return workdir


@pytest.mark.slow
def test_a_surrogate_is_like_m_and_not_m(lured: Path) -> None:
    target, surrogate = (
        keras.saving.load_model(lured / f"{name}.keras", compile=False).get_weights()
        for name in ("target", "surrogate")
    )
    for ours, like in zip(target, surrogate, strict=True):
        assert ours.shape == like.shape
        assert not np.array_equal(ours, like)
    told = facts(lured, "surrogate")
    assert (told["own_seed"], told["seed"]) == (1, 0)


@pytest.mark.slow
def test_a_training_is_told_with_its_settings(fresh: Path) -> None:
    command = ("--variant=auto", *SMALL, "--schedule=short")
    moved = ("--rotation=10", "--shift=0.1")
    run(fresh, *command, "--peak_rate=0.5", "--batch_size=16", *moved)
    told = facts(fresh, "auto")
    assert (told["rotation"], told["shift"]) == (10.0, 0.1)
    assert (told["steps"], told["batch_size"], told["cosine"]) == (4, 16, True)
    assert told["learning_rates"] == [0.5]
    with pytest.raises(CommandLineError, match="batch_size, learning_rates, rota"):
        run(fresh, *command, "--resume")


@pytest.mark.slow
def test_a_p_is_picked_from_what_it_started_from_and_what_came_of_it(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(LURE_RECIPES["digits"], validation_split=0.17)
    monkeypatch.setitem(LURE_RECIPES, "digits", recipe)
    command = ("--variant=luring", f"--start={fresh / 'start.keras'}", "--loss=margin")
    with pytest.raises(CommandLineError, match="argument `start`"):
        run(fresh, "--width=0.1", "--steps=4", *command)
    # What was refused leaves nothing behind that stands in the way.
    run(fresh, *SMALL, *command)
    told = facts(fresh)
    assert told["start_sha256"]
    assert told["validation_split"] == 0.17
    assert told["picked_step"] in (0, 4)
    assert 0 <= told["validation_score"] <= 1
    # Lambda is no part of the alternative loss.
    assert told["loss"] == "margin"
    assert "luring_weight" not in told


def test_what_is_there_is_not_trained_again(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--width=0.05", "--variant=auto")
    with pytest.raises(CommandLineError, match="--resume"):
        run(workdir, *command, "--steps=10")
    run(workdir, *command, "--steps=10", "--resume")
    assert not capsys.readouterr().out
    # And what was trained otherwise is not passed off.
    with pytest.raises(CommandLineError, match="other settings: steps differ"):
        run(workdir, *command, "--steps=200", "--resume")


@pytest.mark.slow
def test_an_interrupted_training_goes_on_with_the_same_rounding_alone(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(fresh, fresh.with_name("whole")))
    command = ("--variant=luring", *SMALL, "--stage=2", "--validation_split=0.1")
    run(whole, *command)
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
            run(fresh, *command)
    with pytest.raises(CommandLineError, match="--resume"):
        run(fresh, *command)
    with monkeypatch.context() as patch:
        patch.setenv("TF_SET_ONEDNN_FPMATH_MODE", "BF16")
        with pytest.raises(CommandLineError, match="environment differ"):
            run(fresh, *command, "--resume")
    run(fresh, *command, "--resume")
    found, expected = facts(fresh), facts(whole)
    for name in ("model", "picked_step", "validation_score"):
        assert found[name] == expected[name]
    assert "environment" not in found


@pytest.mark.slow
def test_m_is_either_trained_or_given(lured: Path) -> None:
    with pytest.raises(CommandLineError, match="and --model names one"):
        run(lured, "--variant=target", f"--model={lured / 'auto.keras'}")
