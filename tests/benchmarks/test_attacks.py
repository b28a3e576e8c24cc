import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from absl import app, flags

from benchmarks import _attack_libraries, attacks
from benchmarks._attack_libraries import LIBRARIES, Victim
from keras_traps.attacks import create
from keras_traps.models import digits_cnn
from tests.attacks.victims import SHAPE, two_classes

CLEAN = np.full((4, *SHAPE), 0.5, np.float32)


def victim(labels: list[int], targets: list[int]) -> Victim:
    return Victim(two_classes(), CLEAN, np.array(labels), np.array(targets), 2)


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    values = attacks.define_flags(flags.FlagValues())
    output = tmp_path / "benchmark"
    attacks.main(values(["benchmark", *arguments, f"--output={output}"]), values)
    content: dict[str, Any] = json.loads(output.with_suffix(".json").read_text("utf-8"))
    return content


def test_a_fooled_image_counts_inside_the_ball_and_a_nan_never() -> None:
    answer = int(two_classes()(CLEAN).numpy()[0].argmax())
    images = CLEAN + np.float32(0.05)
    images[1] += 0.2
    images[2] = np.nan
    images[3] = 0.0
    row = attacks.judge(
        create("FGSM", eps=0.1), victim([1 - answer] * 4, [answer] * 4), images
    )
    assert row["success"] == 0.25
    assert row["l2"] == pytest.approx(0.05 * np.sqrt(6), rel=1e-4)


def test_a_targeted_attack_has_to_reach_its_target() -> None:
    answer = int(two_classes()(CLEAN).numpy()[0].argmax())
    aimed = victim([answer] * 4, [answer, 1 - answer, answer, answer])
    assert attacks.judge(create("CW2"), aimed, CLEAN)["success"] == 0.75


def test_cleverhans_is_asked_for_what_it_has() -> None:
    aimed = victim([0] * 4, [1] * 4)
    for name, known in (("PGD", True), ("PGD-early", False), ("DeepFool", False)):
        made = LIBRARIES["cleverhans"](attacks._attack(name), aimed)
        assert (made is not None) == known


def test_speed_is_told_with_ratios_and_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(package: str) -> str | None:
        return "1" if package in ("keras_traps", "cleverhans") else None

    monkeypatch.setattr(attacks, "version", installed)
    keras.utils.set_random_seed(0)
    # Untrained, it gets some digits right.
    digits_cnn().save(tmp_path / "digits.keras")
    content = run(
        tmp_path,
        f"--model={tmp_path / 'digits.keras'}",
        "--num_examples=4",
        "--attacks=PGD,JSMA",
        "--repeats=0",
        "--nomemory",
    )
    names = [(row["attack"], row["library"]) for row in content["rows"]]
    assert names == [
        ("PGD", "keras_traps"),
        ("PGD", "cleverhans"),
        ("JSMA", "keras_traps"),
    ]
    ours, theirs, _ = content["rows"]
    assert "ratio" not in ours
    assert theirs["ratio"] > 0
    assert ours["success"] == theirs["success"]
    assert "foolbox: not installed" in content["title"]


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert _attack_libraries.version("no_such_package") is None
    assert _attack_libraries.version("cleverhans") == "4.0.0"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--attacks=PGD,Magic", "--attacks knows PGD.*Received: Magic"),
        ("--libraries=keras_traps,Other", "--libraries knows.*Received: Other"),
        ("--dataset=mnist", "--model is required for mnist"),
    ],
)
def test_a_wrong_command_line_is_refused(
    argument: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(app.UsageError, match=message):
        run(tmp_path, argument)


def test_autoattack_ends_with_the_attack_that_fools() -> None:
    answer = int(two_classes()(CLEAN).numpy()[0].argmax())
    aimed = victim([answer, 1 - answer, answer, answer], [0] * 4)
    result = attacks._attack("AutoAttack")(two_classes(), CLEAN, aimed.labels)
    assert result.success.all()
    # What is wrong already goes to no attack.
    assert result.iterations[1] == 0
    np.testing.assert_array_equal(result.images[1], CLEAN[1])
    weak = _attack_libraries.AutoAttack(eps=1e-4)(two_classes(), CLEAN[:1], [answer])
    assert not weak.success.any()
    # 100 steps of APGD, as many to the one rival by two others, then the search.
    assert weak.iterations.tolist() == [3 * 100 + 5000]


@pytest.mark.parametrize("library", ["foolbox", "art", "torchattacks"])
def test_a_rival_has_what_it_is_compared_in(library: str) -> None:
    pytest.importorskip(library, exc_type=ImportError)
    made = LIBRARIES[library](attacks._attack("PGD"), victim([0] * 4, [1] * 4))
    assert made is not None
    assert made().shape == CLEAN.shape
