import json
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from absl import app, flags

from benchmarks import _attack_libraries, _attack_outcomes, attacks
from benchmarks._attack_cases import Case, all_cases
from benchmarks._attack_modes import LIBRARIES
from benchmarks._attack_rivals import ART
from benchmarks._attack_victim import Victim
from keras_traps.attacks import create
from keras_traps.models import digits_cnn
from tests.attacks.victims import SHAPE, two_classes

CLEAN = np.full((4, *SHAPE), 0.5, np.float32)


def victim(labels: list[int], targets: list[int]) -> Victim:
    return Victim(
        model=two_classes(),
        images=CLEAN,
        labels=np.array(labels, np.int64),
        targets=np.array(targets, np.int64),
        background=CLEAN,
        data_sha256="",
    )


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    values = attacks.define_flags(flags.FlagValues())
    output = tmp_path / "benchmark"
    attacks.main(values(["benchmark", *arguments, f"--output={output}"]), values)
    content: dict[str, Any] = json.loads(output.with_suffix(".json").read_text("utf-8"))
    return content


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the file of an untrained classifier, which gets some digits right."""
    path = tmp_path_factory.mktemp("model") / "digits.keras"
    keras.utils.set_random_seed(0)
    digits_cnn().save(path)
    return f"--model={path}"


@pytest.fixture
def no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> types.ModuleType:
        if name in ("foolbox", "art"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return types.ModuleType(name)

    monkeypatch.setattr(_attack_libraries, "import_quietly", missing)


def test_a_package_of_another_distribution_is_not_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_attack_libraries, "import_quietly", types.ModuleType)
    monkeypatch.setattr(ART, "distribution", "no-such-distribution")
    assert ART.version() is None


def test_a_fooled_image_counts_inside_the_ball_and_a_nan_never() -> None:
    case = Case("FGSM", create("FGSM", eps=0.1), steps=1)
    answer = int(two_classes()(CLEAN).numpy()[0].argmax())
    images = CLEAN + np.float32(0.05)
    fooled = victim([1 - answer] * 4, [answer] * 4)
    images[1] += 0.2
    images[2] = np.nan
    images[3] = 0.0
    outcome = _attack_outcomes.judge(fooled, case, images)
    assert outcome.success.tolist() == [True, False, False, False]
    assert outcome.l2[0] == pytest.approx(0.05 * np.sqrt(6), rel=1e-4)


def test_a_targeted_attack_has_to_reach_its_target() -> None:
    case = Case("CW2", create("CW2"), steps=1, minimal=True)
    answer = int(two_classes()(CLEAN).numpy()[0].argmax())
    aimed = victim([answer] * 4, [answer, 1 - answer, answer, answer])
    outcome = _attack_outcomes.judge(aimed, case, CLEAN)
    assert outcome.success.tolist() == [True, False, True, True]


def test_distances_are_compared_where_both_succeed() -> None:
    case = Case("CW2", create("CW2"), steps=1, minimal=True)
    ours = _attack_outcomes.Outcome(
        np.array([True, True, False]), np.array([1.0, 2.0, 0.0], np.float32)
    )
    theirs = _attack_outcomes.Outcome(
        np.array([True, False, True]), np.array([2.0, 9.0, 9.0], np.float32)
    )
    row = _attack_outcomes.compare(case, ours, theirs)
    assert row == {"points": 0.0, "l2_ratio": 0.5}
    ball = Case("FGSM", create("FGSM", eps=0.1), steps=1)
    assert _attack_outcomes.compare(ball, ours, theirs) == {"points": 0.0}


def test_all_libraries_get_the_same_settings_and_grey_images_those_of_mnist() -> None:
    grey = {case.name: case for case in all_cases((28, 28, 1), radius=1.0)}
    coloured = {case.name: case for case in all_cases((32, 32, 3), radius=0.5)}
    assert grey["PGD"].settings["eps"] == 0.3
    assert coloured["PGD"].settings["eps"] == pytest.approx(0.05)
    assert grey["PGD"].steps == grey["PGD"].settings["nb_iter"] == 40
    assert {name for name in grey if grey[name].minimal} == {
        "DeepFool",
        "CW2",
        "EAD",
    }


@pytest.mark.usefixtures("no_rivals")
def test_a_library_that_is_missing_is_left_out_and_said_to_be(
    model: str, tmp_path: Path
) -> None:
    content = run(
        tmp_path,
        model,
        "--mode=strength",
        "--num_examples=4",
        "--attacks=FGSM,DeepFool",
    )
    names = [(row["attack"], row["library"]) for row in content["rows"]]
    assert names == [
        ("FGSM", "keras_traps"),
        ("FGSM", "cleverhans"),
        ("DeepFool", "keras_traps"),
    ]
    facts = content["provenance"]
    assert facts["Foolbox"] == facts["ART"] == "not installed"
    written = (tmp_path / "benchmark.md").read_text("utf-8")
    assert "Foolbox is not installed, and left out." in written
    # The same formula on the same gradient.
    assert content["rows"][1]["points"] == 0.0


@pytest.mark.usefixtures("no_rivals")
def test_speed_is_told_with_ratios_and_image_steps(model: str, tmp_path: Path) -> None:
    content = run(
        tmp_path,
        model,
        "--mode=speed",
        "--num_examples=4",
        "--attacks=PGD",
        "--repeats=1",
        "--nomemory",
    )
    ours, theirs = content["rows"]
    assert "ratio" not in ours
    assert theirs["ratio"] > 0
    for row in (ours, theirs):
        assert row["image_steps"] == pytest.approx(4 * 40 / row["seconds"])
        assert row["first_seconds"] > 0
    assert {"success", "l2"} <= set(ours) & set(theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attacks=FGSM,Magic"], "--attacks knows FGSM.*Received: Magic"),
        (["--libraries=keras_traps,Other"], "--libraries knows.*Received: Other"),
        (["--libraries=cleverhans"], "has to name keras_traps"),
        (["--dataset=mnist"], "--model is required for mnist"),
        (["--counts=9,abc"], "--counts must be.*Received: 9,abc"),
        (["--counts=9,9"], "--counts must be.*Received: 9,9"),
        (["fast"], "Received: fast"),
    ],
)
def test_a_wrong_command_line_is_refused(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(app.UsageError, match=message):
        run(tmp_path, *arguments)


def test_a_rival_has_what_it_is_compared_in() -> None:
    pytest.importorskip("foolbox", exc_type=ImportError)
    case = {case.name: case for case in all_cases(SHAPE, radius=1.0)}["PGD"]
    aimed = victim([0] * 4, [1] * 4)
    library = LIBRARIES["Foolbox"](aimed, batch_size=2, compiled=True)
    made = library.run(case)
    assert made is not None
    assert made().shape == CLEAN.shape
