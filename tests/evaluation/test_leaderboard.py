from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from keras_traps import attacks, attractors
from keras_traps.datasets import Dataset
from keras_traps.evaluation.leaderboard import (
    Contender,
    Leaderboard,
    evaluate,
    implied_accuracy,
)
from keras_traps.evaluation.report import write_leaderboard
from keras_traps.evaluation.subjects import Defence
from keras_traps.rates import Rate

RADIUS = 0.2
ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("PGD", {"eps_iter": 0.05, "nb_iter": 5}),
    ("RayS", {"nb_queries": 20}),
    ("Square", {"nb_queries": 20}),
    ("SelectivePGD", {"nb_iter": 10}),
]


def made(*, eps: float = RADIUS) -> list[attacks.Attack]:
    return [attacks.create(name, eps=eps, **more) for name, more in ATTACKS]


def board(defence: Defence, test: Dataset, workdir: Path) -> Leaderboard:
    contenders = [
        Contender("undefended", defence.classifier),
        Contender(
            "traps",
            defence.trapped,
            "scores",
            detector=defence.main_analyzer,
            known=attractors.classifier_of(defence.trapped),
            substitutes={"own": defence.classifier},
        ),
    ]
    return evaluate(
        contenders,
        made(),
        test.images[:60],
        test.labels[:60],
        workdir=workdir,
        num_examples=12,
    )


@pytest.fixture(scope="module")
def found(
    digits_defence: Defence, digits_test: Dataset, tmp_path_factory: Any
) -> Leaderboard:
    return board(digits_defence, digits_test, tmp_path_factory.mktemp("board"))


def test_each_attack_meets_each_contender_as_it_knows(found: Leaderboard) -> None:
    met = {(one["contender"], one["attack"], one["level"]) for one in found.attacks}
    assert met == {
        ("undefended", "PGD", "gradients"),
        ("undefended", "RayS", "labels"),
        ("undefended", "Square", "scores"),
        ("traps", "PGD", "gradients"),
        ("traps", "PGD from own", "transfer"),
        ("traps", "RayS", "labels"),
        ("traps", "Square", "scores"),
        ("traps", "SelectivePGD", "everything"),
    }
    for one in found.attacks:
        asks = one["level"] in ("labels", "scores")
        assert (one["queries"] is not None) == asks
        watched = one["contender"] == "traps"
        assert (one["rejections"] is not None) == (asks and watched)


def test_a_level_holds_what_lower_ones_do_and_half_the_alarms_stop_more(
    found: Leaderboard,
) -> None:
    plain, traps = found.rows
    assert list(plain["levels"]) == ["labels", "scores", "gradients"]
    every = ["transfer", "labels", "scores", "gradients", "everything"]
    assert list(traps["levels"]) == every
    lost = [traps["levels"][name]["any"]["0.05"].count for name in every]
    assert lost == sorted(lost)
    for level in traps["levels"].values():
        rates = [level["any"][name].count for name in ("fooled", "0.05", "half")]
        assert rates == sorted(rates, reverse=True)
    # Without a detector all that is wrong gets through.
    for level in plain["levels"].values():
        assert len({rate.count for rate in level["any"].values()}) == 1
    assert plain["false_positives"] == {}
    assert traps["false_positives"][0.05].total == 60


def test_what_answers_is_what_is_served_whatever_was_attacked(
    found: Leaderboard, digits_defence: Defence
) -> None:
    # C is fooled by what is made on C; M may answer otherwise, and is asked.
    moved = found.frame[found.frame["subject"] == "traps.transfer-own"]
    beside = found.frame[
        (found.frame["subject"] == "undefended.blind")
        & (found.frame["attack"] == "PGD")
    ]
    np.testing.assert_allclose(moved["l2"], beside["l2"], rtol=1e-5)


def test_an_interrupted_evaluation_goes_on_and_finds_the_same(
    digits_defence: Defence,
    digits_test: Dataset,
    found: Leaderboard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    square = attacks.create("Square", eps=RADIUS, nb_queries=20)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(square), "perturb", interrupt)
        with pytest.raises(KeyboardInterrupt):
            board(digits_defence, digits_test, tmp_path)
    again = board(digits_defence, digits_test, tmp_path)
    pd.testing.assert_frame_equal(again.frame, found.frame)
    assert again.rows == found.rows


def test_who_knows_everything_follows_what_answers_behind_a_lure(
    digits_classifier: keras.Model, digits_test: Dataset, tmp_path: Path
) -> None:
    # P shows M a grey image whatever it is given: no slope of M∘P leads anywhere.
    inputs = keras.Input((8, 8, 1))
    grey = 1e-3 * inputs + 0.5
    lured = keras.Model(inputs, digits_classifier(grey))
    found = evaluate(
        [Contender("lured", lured, answers=digits_classifier)],
        made(eps=0.3)[:1],
        digits_test.images[:30],
        digits_test.labels[:30],
        workdir=tmp_path,
    )
    fooled = {one["level"]: one["fooled"].value for one in found.attacks}
    assert fooled["everything"] > fooled["gradients"]


def test_what_is_rebuilt_of_gradients_is_followed_at_their_level(
    digits_defence: Defence, digits_test: Dataset, tmp_path: Path
) -> None:
    own, trapped = digits_defence.classifier, digits_defence.trapped
    watermark = attractors.extract(trapped, digits_test.images[:8])
    analyzer = attractors.RebuiltAnalyzer(watermark, own, digits_test.images[:200])
    contender = Contender(
        "traps",
        trapped,
        "scores",
        detector=digits_defence.main_analyzer,
        substitutes={"one": own, "other": own},
        rebuilt=(attractors.with_slope_of(trapped, own), analyzer),
    )
    found = evaluate(
        [contender],
        [made()[0], made()[3]],
        digits_test.images[200:260],
        digits_test.labels[200:260],
        workdir=tmp_path,
        num_examples=12,
    )
    met = {(one["attack"], one["level"]) for one in found.attacks}
    assert met == {
        ("PGD", "gradients"),
        ("PGD from one", "transfer"),
        ("PGD from other", "transfer"),
        ("extraction, SelectivePGD", "gradients"),
        ("SelectivePGD", "everything"),
    }
    fooled = {(one["attack"], one["level"]): one["fooled"] for one in found.attacks}
    assert (
        fooled["extraction, SelectivePGD", "gradients"].count
        > fooled["PGD", "gradients"].count
    )
    assert [row["levels"]["transfer"]["any"]["0.05"].total for row in found.rows] == [
        12
    ]


def test_records_of_other_images_are_not_taken(
    found: Leaderboard,
    digits_classifier: keras.Model,
    digits_test: Dataset,
    tmp_path: Path,
) -> None:
    more: dict[str, Any] = {"workdir": tmp_path, "num_examples": 4}
    contenders, chosen = [Contender("one", digits_classifier)], made()[:1]
    images, labels = digits_test.images, digits_test.labels
    evaluate(contenders, chosen, images[:8], labels[:8], **more)
    with pytest.raises(ValueError, match="images"):
        evaluate(contenders, chosen, images[8:16], labels[8:16], **more)


def test_the_page_tells_the_worst_first(found: Leaderboard, tmp_path: Path) -> None:
    paths = write_leaderboard(found, tmp_path)
    text = paths.markdown.read_text()
    assert "Whom each defence stops" in text
    table = text[text.index("## traps") :]
    order = [
        max(found.attacks, key=lambda one: one["through"].get(0.05, Rate(0, 1)).value)
    ]
    first = next(line for line in table.splitlines() if "| 0.2 |" in line)
    assert order[0]["attack"] in first


def test_half_the_images_lost_imply_half_the_accuracy() -> None:
    assert implied_accuracy(Rate(1, 2), Rate(9, 10)) == pytest.approx(0.45)


def test_a_contender_that_no_attack_meets_has_a_row_and_a_page(
    digits_defence: Defence, digits_test: Dataset, tmp_path: Path
) -> None:
    watched = Contender(
        "watched", digits_defence.classifier, detector=digits_defence.main_analyzer
    )
    found = evaluate(
        [Contender("bare", digits_defence.classifier), watched],
        made()[3:],
        digits_test.images[:20],
        digits_test.labels[:20],
        workdir=tmp_path,
        num_examples=3,
    )
    assert [list(row["levels"]) for row in found.rows] == [[], ["everything"]]
    write_leaderboard(found, tmp_path)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"contenders": []}, "contenders"),
        ({"attacks": []}, "contenders"),
        ({"images": np.full((2, 8, 8, 1), 2.0, np.float32)}, "images"),
        ({"labels": [0, 11]}, "labels"),
        ({"num_examples": 0}, "num_examples"),
        ({"limits": {"Pgd": 3}}, "limits"),
        ({"attacks": made()[3:]}, "attacks"),
    ],
)
def test_an_argument_out_of_range_is_named(
    changes: dict[str, Any],
    name: str,
    digits_classifier: keras.Model,
    digits_test: Dataset,
    tmp_path: Path,
) -> None:
    usual: dict[str, Any] = {
        "contenders": [Contender("one", digits_classifier)],
        "attacks": made(),
        "images": digits_test.images[:2],
        "labels": digits_test.labels[:2],
    }
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        evaluate(**{**usual, **changes}, workdir=tmp_path)
