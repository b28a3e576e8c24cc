import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import app

from keras_traps import datasets
from keras_traps.luring import schedules
from keras_traps.luring.training import Backup
from tests.recipes.luring_runs import run, tables


def test_a_surrogate_is_like_m_and_not_m(models: Path) -> None:
    target, surrogate = (
        keras.saving.load_model(models / f"{name}.keras", compile=False)
        for name in ("target", "surrogate")
    )
    assert [w.shape for w in surrogate.weights] == [w.shape for w in target.weights]
    assert not any(
        np.array_equal(a, b)
        for a, b in zip(
            surrogate.trainable_weights, target.trainable_weights, strict=True
        )
    )
    facts = json.loads((models / "surrogate.json").read_text())
    assert (facts["own_seed"], facts["seed"]) == (1, 0)
    assert facts["test"] > 0.5


def test_a_short_schedule_is_told_with_its_rate(workdir: Path) -> None:
    (workdir / "luring.keras").unlink()
    (workdir / "luring.json").unlink()
    small = ("--width=0.05", "--steps=30", "--variant=luring")
    run("train", f"--workdir={workdir}", "--schedule=short", "--resume", *small)
    facts = json.loads((workdir / "luring.json").read_text())
    assert (facts["steps"], facts["batch_size"]) == (30, 64)
    assert facts["peak_rate"] == 4e-3
    assert "boundaries" not in facts


def test_the_rate_of_a_short_schedule_may_be_chosen(workdir: Path) -> None:
    for file in ("luring.keras", "luring.json"):
        (workdir / file).unlink()
    command = ("train", f"--workdir={workdir}", "--schedule=short", "--resume")
    small = ("--width=0.05", "--steps=3", "--variant=luring")
    run(*command, *small, "--peak_rate=0.5")
    facts = json.loads((workdir / "luring.json").read_text())
    assert facts["peak_rate"] == 0.5
    with pytest.raises(ValueError, match="peak_rate differ"):
        run(*command, *small)


@pytest.mark.parametrize("rate", ["0", "-1", "nan"])
def test_a_rate_that_is_not_above_0_is_refused(workdir: Path, rate: str) -> None:
    command = ("train", f"--workdir={workdir}", "--schedule=short", "--resume")
    with pytest.raises(ValueError, match="peak_rate"):
        run(*command, "--variant=ce", f"--peak_rate={rate}")


def test_what_p_started_from_is_told(workdir: Path) -> None:
    start = shutil.copy(workdir / "auto.keras", workdir / "start.keras")
    digest = json.loads((workdir / "auto.json").read_text())["model"]
    (workdir / "luring.json").unlink()
    small = ("--width=0.05", "--steps=30", "--variant=luring")
    run("train", f"--workdir={workdir}", f"--start={start}", "--resume", *small)
    clean = {row["variant"]: row["facts"] for row in tables(workdir)["clean"]}
    assert clean["luring"]["start_sha256"] == digest
    assert "start_sha256" not in clean["auto"]
    text = (workdir / "tables/luring.md").read_text()
    assert f"| start\\_sha256 | {digest} |" in text


def test_a_start_of_another_width_leaves_no_backup_behind(workdir: Path) -> None:
    (workdir / "luring.keras").unlink()
    (workdir / "luring.json").unlink()
    command = ("train", f"--workdir={workdir}", "--steps=30", "--variant=luring")
    start = f"--start={workdir / 'auto.keras'}"
    with pytest.raises(ValueError, match="argument `start`"):
        run(*command, "--width=0.1", start)
    run(*command, "--width=0.05", start)
    assert (workdir / "luring.keras").exists()


@pytest.mark.parametrize("variant", ["target", "surrogate"])
def test_a_start_of_what_has_no_p_is_refused(workdir: Path, variant: str) -> None:
    start = f"--start={workdir / 'auto.keras'}"
    command = ("train", f"--workdir={workdir}", "--resume", f"--variant={variant}")
    with pytest.raises(app.UsageError, match=f"--start.*{variant}"):
        run(*command, start)


def test_what_was_trained_otherwise_is_not_passed_off(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", f"--workdir={workdir}", "--resume", "--width=0.05")
    run(*command, "--steps=100", "--variant=auto", "--stage=7")
    assert not capsys.readouterr().out
    for changed, flag in (("steps", "--steps=200"), ("width", "--width=0.1")):
        with pytest.raises(
            ValueError, match=f"auto .*other settings: {changed} differ"
        ):
            run(*command, "--steps=100", "--variant=auto", flag)
    with pytest.raises(ValueError, match="luring_weight differ"):
        run(*command, "--steps=100", "--variant=luring", "--luring_weight=2")
    start = f"--start={shutil.copy(workdir / 'auto.keras', workdir / 'start.keras')}"
    with pytest.raises(ValueError, match="start_sha256 differ"):
        run(*command, "--steps=100", "--variant=luring", start)


@pytest.mark.parametrize("variant", ["surrogate", "luring"])
def test_how_images_were_moved_is_told(workdir: Path, variant: str) -> None:
    facts = json.loads((workdir / f"{variant}.json").read_text())
    assert (facts["rotation"], facts["shift"]) == (0.0, 0.0)
    for file in (f"{variant}.keras", f"{variant}.json"):
        (workdir / file).unlink()
    command = ("train", f"--workdir={workdir}", "--resume", f"--variant={variant}")
    small = ("--steps=4",) if variant == "surrogate" else ("--steps=4", "--width=0.05")
    with pytest.raises(ValueError, match="argument `shift`"):
        run(*command, *small, "--shift=1")
    run(*command, *small, "--rotation=10", "--shift=0.1")
    facts = json.loads((workdir / f"{variant}.json").read_text())
    assert (facts["rotation"], facts["shift"]) == (10.0, 0.1)
    with pytest.raises(ValueError, match="shift differ"):
        run(*command, *small, "--rotation=10")


def test_the_last_p_is_kept_unless_images_are_held_out(workdir: Path) -> None:
    facts = json.loads((workdir / "luring.json").read_text())
    assert facts["validation_split"] == 0.0
    for file in ("luring.keras", "luring.json"):
        (workdir / file).unlink()
    command = ("train", f"--workdir={workdir}", "--resume", "--width=0.05")
    small = ("--variant=luring", "--steps=4", "--validation_split=0.2")
    run(*command, *small, "--stage=2")
    facts = json.loads((workdir / "luring.json").read_text())
    assert facts["validation_split"] == 0.2
    assert facts["picked_step"] in (2, 4)
    assert 0 <= facts["validation_score"] <= 1
    # Another stage is another choice to pick from.
    with pytest.raises(ValueError, match="stage differ"):
        run(*command, *small, "--stage=3")


def test_what_p_started_from_is_one_to_pick_from(workdir: Path) -> None:
    start = shutil.move(workdir / "luring.keras", workdir / "start.keras")
    (workdir / "luring.json").unlink()
    command = ("train", f"--workdir={workdir}", f"--start={start}", "--resume")
    small = ("--variant=luring", "--steps=4", "--validation_split=0.2")
    run(*command, "--width=0.05", *small)
    assert json.loads((workdir / "luring.json").read_text())["picked_step"] in (0, 4)


@pytest.mark.parametrize("variant", ["target", "surrogate", "auto"])
def test_what_is_not_picked_takes_no_share(workdir: Path, variant: str) -> None:
    command = ("train", f"--workdir={workdir}", "--resume", f"--variant={variant}")
    with pytest.raises(app.UsageError, match="--validation_split"):
        run(*command, "--validation_split=0.2")


@pytest.mark.parametrize(
    ("schedule", "variant", "share"),
    [("authors", "luring", 0.17), ("authors", "auto", 0.0), ("short", "luring", 0.0)],
)
def test_the_authors_schedule_picks_p_as_they_do(
    workdir: Path,
    schedule: str,
    variant: str,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(schedules.LURE_VALIDATION, "digits", 0.17)
    for file in (f"{variant}.keras", f"{variant}.json"):
        (workdir / file).unlink()
    small = ("--width=0.05", "--steps=4", f"--variant={variant}", "--resume")
    looks = ("--stage=2", f"--schedule={schedule}")
    run("train", f"--workdir={workdir}", *looks, *small)
    facts = json.loads((workdir / f"{variant}.json").read_text())
    assert facts["validation_split"] == share


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--validation_split=1", r"below 1\. Received: 1\.0"),
        ("--validation_split=-0.1", r"at least 0.*Received: -0\.1"),
        ("--validation_split=0.2", r"4 steps and --stage=500"),
    ],
)
def test_an_impossible_choice_is_refused_before_anything_is_trained(
    workdir: Path, flag: str, told: str
) -> None:
    for file in ("luring.keras", "luring.json"):
        (workdir / file).unlink()
    command = ("train", f"--workdir={workdir}", "--resume", "--variant=luring")
    with pytest.raises(app.UsageError, match=told):
        run(*command, "--steps=4", flag)
    assert not (workdir / ".luring.backup").exists()


def test_images_of_another_kind_are_another_setting(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", f"--workdir={workdir}", "--resume", "--variant=target")
    digits = datasets.load("digits", "train", None)
    others = dataclasses.replace(digits, pixels=digits.pixels[::-1])
    monkeypatch.setattr(datasets, "load", lambda *_: others)
    with pytest.raises(ValueError, match="train_data differ"):
        run(*command, "--steps=60")


def test_lambda_is_no_part_of_the_alternative_loss(workdir: Path) -> None:
    command = ("train", f"--workdir={workdir}", "--variant=luring", "--loss=margin")
    with pytest.raises(app.UsageError, match="--luring_weight"):
        run(*command, "--luring_weight=2")
    (workdir / "luring.keras").unlink()
    (workdir / "luring.json").unlink()
    run(*command, "--width=0.05", "--steps=4")
    assert "luring_weight" not in json.loads((workdir / "luring.json").read_text())


def test_a_wrong_weight_does_not_stand_in_the_way_of_the_right_one(
    workdir: Path,
) -> None:
    (workdir / "luring.keras").unlink()
    (workdir / "luring.json").unlink()
    command = ("train", f"--workdir={workdir}", "--variant=luring", "--width=0.05")
    with pytest.raises(ValueError, match="luring_weight"):
        run(*command, "--steps=4", "--luring_weight=-1")
    run(*command, "--steps=4", "--luring_weight=1")
    assert (workdir / "luring.keras").exists()


def test_a_file_of_other_weights_than_were_measured_is_refused(workdir: Path) -> None:
    shutil.copy(workdir / "auto.keras", workdir / "luring.keras")
    with pytest.raises(ValueError, match=r"luring\.keras has other weights than"):
        run("attack", f"--workdir={workdir}", "--attacks=FGSM", "--variant=luring")


def test_rounding_is_a_setting_of_a_training_that_goes_on(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("luring.keras", "luring.json"):
        (workdir / file).unlink()
    command = ("train", f"--workdir={workdir}", "--variant=luring", "--resume")
    small = ("--width=0.05", "--steps=4", "--stage=2")
    save = Backup.save

    def killed(backup: Backup, model: keras.Model) -> None:
        save(backup, model)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Backup, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(*command, *small)
    with monkeypatch.context() as patch:
        patch.setenv("TF_SET_ONEDNN_FPMATH_MODE", "BF16")
        with pytest.raises(ValueError, match="environment differ"):
            run(*command, *small)
    run(*command, *small)
    assert "environment" not in json.loads((workdir / "luring.json").read_text())


@pytest.mark.parametrize(
    ("variant", "flag"),
    [
        ("target", "--batch_size=8"),
        ("surrogate", "--batch_size=8"),
        ("surrogate", "--width=0.5"),
        ("target", "--schedule=short"),
        ("target", "--peak_rate=0.1"),
        ("luring", "--peak_rate=0.1"),
        ("surrogate", "--stage=7"),
        ("ce", "--loss=margin"),
        ("stack", "--luring_weight=2"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(
    workdir: Path, variant: str, flag: str
) -> None:
    command = ("train", f"--workdir={workdir}", "--resume", f"--variant={variant}")
    with pytest.raises(app.UsageError, match=flag.partition("=")[0]):
        run(*command, flag)
