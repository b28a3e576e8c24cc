import json
from pathlib import Path
from typing import Any, get_args

import detectors
import detectors_published
import figure
import keras
import pytest
import robustness

from keras_traps import attacks
from keras_traps.attacks.gradient import PGD
from keras_traps.commands.command_line import CommandLineError
from keras_traps.detectors import (
    DETECTORS,
    TABOO_TRAP_PRESETS,
    TRAPDOOR_PRESETS,
    load,
)
from keras_traps.detectors.feature_squeezing import FeatureSqueezingPreset
from keras_traps.detectors.magnet import MagNetPreset


@pytest.fixture(scope="module")
def fitted(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LID, which leaves the classifier as it is, and the taboo trap, which does not."""
    folder = tmp_path_factory.mktemp("fitted")
    for name in ("LID", "TabooTrap"):
        detectors.main(fitting(digits_file, folder / name, f"--detector={name}"))
    return folder


def fitting(model: Path, workdir: Path, *more: str) -> list[str]:
    return ["fit", f"--model={model}", f"--workdir={workdir}", *more]


def comparing(model: Path, workdir: Path, *folders: Path) -> list[str]:
    chosen = [f"--detector={folder}" for folder in folders]
    few = ["--attacks=FGSM,PGD", "--num_examples=10", "--chunk_size=5"]
    known = [f"--model={model}", "--public_key=0", f"--workdir={workdir}"]
    return ["table", *known, *chosen, *few]


def test_a_detector_is_fitted_measured_and_saved(fitted: Path) -> None:
    about = json.loads((fitted / "LID" / "about.json").read_text())
    assert about["learnt_from"].startswith("FGSM (eps = 0.3")
    # Of so few test images no half would do for 0.5 %.
    told = about["provenance"]["images that set the thresholds"]
    assert told == "1297 training images"
    assert about["false_positives"]["0.05"]["total"] == 500
    assert about["accuracy"]["value"] > 0.9
    detector = load(fitted / "LID")
    assert detector.fprs == (0.05, 0.005)
    about = json.loads((fitted / "TabooTrap" / "about.json").read_text())
    assert (about["preset"], about["learnt_from"]) == ("cpu", None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--detector=MagNet --preset=mnist", "preset.*shape"),
        (
            "--detector=FeatureSqueezing",
            "preset of FeatureSqueezing has to be one of",
        ),
        ("--detector=FeatureSqueezing --preset=cifar10", "preset.*shape"),
        ("--detector=Trapdoor --preset=paper", "has to be one of mnist, cifar10, cpu"),
        ("--detector=LID --preset=cpu", "--preset of LID has to be none"),
        ("--detector=Other", "--detector: expected one of FeatureSqueezing"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    flags: str, message: str, digits_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(CommandLineError, match=message):
        detectors.main(fitting(digits_file, tmp_path, *flags.split()))
    assert not (tmp_path / "about.json").exists()


def test_each_detector_and_preset_can_be_asked_for() -> None:
    presets = dict.fromkeys(DETECTORS, ()) | {
        "FeatureSqueezing": get_args(FeatureSqueezingPreset),
        "MagNet": get_args(MagNetPreset),
        "Trapdoor": tuple(TRAPDOOR_PRESETS),
        "TabooTrap": tuple(TABOO_TRAP_PRESETS),
    }
    assert presets == detectors._PRESETS


def test_a_detector_is_not_replaced_unasked(digits_file: Path, fitted: Path) -> None:
    with pytest.raises(CommandLineError, match="--overwrite"):
        detectors.main(fitting(digits_file, fitted / "LID", "--detector=LID"))


def test_what_is_no_detector_of_this_classifier_is_refused(
    fitted: Path, tmp_path: Path, digits_classifier: keras.Model
) -> None:
    other = keras.models.clone_model(digits_classifier)
    other.set_weights([1.1 * each for each in digits_classifier.get_weights()])
    path = tmp_path / "other.keras"
    other.save(path)
    with pytest.raises(CommandLineError, match="for another classifier than --model"):
        detectors.main(comparing(path, tmp_path / "run", fitted / "LID"))
    with pytest.raises(CommandLineError, match=r"there is no file .*about\.json"):
        detectors.main(comparing(path, tmp_path / "run", tmp_path))


def test_a_table_that_was_interrupted_goes_on_and_finds_the_same(
    fitted: Path,
    digits_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(workdir: Path, *more: str) -> Any:
        chosen = (fitted / "LID", fitted / "TabooTrap")
        detectors.main([*comparing(digits_file, workdir, *chosen), *more])
        return json.loads((workdir / "detectors.json").read_text())["rows"]

    whole = made(tmp_path / "whole")
    assert [row["detector"] for row in whole] == ["LID", "TabooTrap", "traps"]
    assert len({row["attacked"] for row in whole}) == 3
    for row in whole:
        for attack in row["attacks"]:
            fooled = attack["success"]["count"]
            detected, overall = attack["detected"]["0.05"], attack["overall"]["0.05"]
            assert detected["count"] + overall["count"] == fooled
            assert overall["total"] == 10
    start, calls = PGD._start, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return start(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PGD, "_start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "parts")
    with pytest.raises(CommandLineError, match="--resume"):
        made(tmp_path / "parts")
    assert made(tmp_path / "parts", "--resume") == whole


def test_a_saved_detector_is_a_contender_that_is_drawn(
    fitted: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "board"
    robustness.main(
        [
            *("leaderboard", f"--contender=lid:detector:{fitted / 'LID'}"),
            *("--eps=0.2", "--attacks=PGD,SelectivePGD", "--num_examples=4"),
            *("--fpr=0.05", f"--workdir={workdir}"),
        ]
    )
    path = workdir / "leaderboard.json"
    board = json.loads(path.read_text())
    assert {row["level"] for row in board["attacks"]} == {"gradients", "everything"}
    assert list(board["rows"][0]["false_positives"]) == ["0.05"]
    drawing = ["detectors", f"--workdir={tmp_path}", "--leaderboard"]
    figure.main([*drawing, str(path)])
    found = json.loads((tmp_path / "detectors.json").read_text())
    shares = {row["attack"]: row["through"] for row in found["numbers"]["attackers"]}
    assert shares == {
        row["attack"]: row["through"]["0.05"]["value"] for row in board["attacks"]
    }
    assert (tmp_path / "figures" / "detectors.png").stat().st_size > 1000
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    with pytest.raises(CommandLineError, match=r"wrong\.json is no leaderboard"):
        figure.main([*drawing, str(wrong)])


def test_a_detector_is_tried_as_its_authors_did(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [attacks.create("FGSM", eps=0.3)]
    monkeypatch.setattr(detectors_published, "_suite", lambda *_: few)
    arguments = ["published", "--num_examples=20", f"--detector={fitted / 'LID'}"]
    detectors.main([*arguments, f"--workdir={tmp_path / 'run'}"])
    found = json.loads((tmp_path / "run" / "published.json").read_text())
    [row] = found["rows"]
    assert (row["detector"], row["attack"], row["images"]) == ("LID", "FGSM", 20)
    # Of no use it would be 0.5, give or take 0.07.
    assert min(row["here"], row["as fitted"]) > 0.75
    # There is no paper about digits.
    assert row["published"] is None
    with pytest.raises(CommandLineError, match="no published numbers"):
        detectors.main(
            [
                *("published", f"--workdir={tmp_path / 'other'}"),
                f"--detector={fitted / 'TabooTrap'}",
            ]
        )
