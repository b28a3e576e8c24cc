import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from keras_traps.evaluation.metrics import (
    attack_rows,
    compare,
    fprs_of,
    make_frame,
    unnoticed,
    worst_cases,
)
from keras_traps.evaluation.records import Record, Run
from keras_traps.evaluation.subjects import Watermark
from keras_traps.rates import Rate
from tests.evaluation.conftest import evidence_of, make_record, make_run, store_of

# Six images of the classes 0, 1, 2, 0, 1, 2.
WRONG = [1, 2, 0, 1, 1, 2]  # the first four are misclassified


def evidence(*largest: float) -> Any:
    """Rows whose lowest correlation is that of class 0."""
    return evidence_of([[-0.1, x, 0.0] for x in largest])


PAPER = make_record(
    answer=WRONG,
    # The first is seen at both rates, the second at 5 % alone.
    evidence=evidence(0.9, 0.6, 0.4, 0.6, 0.9, 0.1),
    l2=[1, 2, 3, 4, 5, 6],
)


def framed(
    tmp_path: Path, watermark: Watermark, *cells: tuple[Run, Record]
) -> pd.DataFrame:
    store = store_of(tmp_path, cells)
    frame = make_frame([run for run, _ in cells], store, watermark)
    return frame.assign(clean_score=0.2, lead=frame["id"] / 10)


def test_the_frame_has_a_row_for_each_image(
    tmp_path: Path, watermark: Watermark
) -> None:
    plain = make_record(answer=WRONG)
    plain = Record({k: v for k, v in plain.arrays.items() if k != "evidence"})
    frame = framed(
        tmp_path,
        watermark,
        (make_run("undefended", "FGSM"), plain),
        (make_run("paper", "FGSM"), PAPER),
        (make_run("integrated", "FGSM"), PAPER),
    )
    assert len(frame) == 18
    assert fprs_of(frame) == [0.05, 0.005]
    paper = frame[frame["subject"] == "paper"]
    assert paper["misclassified"].tolist() == [True] * 4 + [False] * 2
    assert paper["flagged_0.05"].tolist() == [True, True, False, True, True, False]
    assert paper["flagged_0.005"].tolist() == [True, False, False, False, True, False]
    assert paper["through_0.05"].tolist() == [False, False, True, False, False, False]
    # Class 0 is recovered, which is right for two of them.
    assert paper["recovered_0.05"].tolist() == [True, False, False, True, False, False]
    largest = [0.9, 0.6, 0.4, 0.6, 0.9, 0.1]
    np.testing.assert_allclose(paper["score"], largest, atol=1e-6)
    # W of the answer less W of the label.
    np.testing.assert_allclose(paper["pull"], [1.0, -0.6, -0.1, 0.7, 0, 0], atol=1e-6)
    for subject in ("undefended", "integrated"):
        part = frame[frame["subject"] == subject]
        assert part["through_0.005"].tolist() == part["misclassified"].tolist()
    assert not frame.loc[frame["subject"] == "undefended", "flagged_0.05"].any()
    assert not frame.loc[frame["subject"] == "undefended", "score"].notna().any()


def test_rows_count_what_the_paper_counts(tmp_path: Path, watermark: Watermark) -> None:
    on_classifier = make_record(answer=[1, 2, 0, 1, 0, 2], l2=np.full(6, 0.5))
    runs = [
        make_run("undefended", "FGSM"),
        make_run("paper", "FGSM", note="A remark."),
        make_run("margin", "FGSM"),
        make_run("integrated", "FGSM"),
    ]
    records = [on_classifier, PAPER, PAPER, PAPER]
    frame = framed(tmp_path, watermark, *zip(runs, records, strict=True))
    paper, margin, integrated = attack_rows(frame, runs)
    assert (paper["variant"], paper["note"]) == ("paper", "A remark.")
    assert paper["success_classifier"] == Rate(5, 6)
    assert paper["success_trapped"] == Rate(4, 6)
    loose, strict = paper["detection"]
    assert loose == {
        "fpr": 0.05,
        "detected": Rate(3, 4),
        "recovered": Rate(2, 3),
        "overall": Rate(1, 6),
    }
    assert (strict["detected"], strict["overall"]) == (Rate(1, 4), Rate(3, 6))
    assert paper["mean_l2"] == 2.5
    assert paper["mean_l2_classifier"] == 0.5
    assert paper["auc"] == 1.0
    assert paper["unflagged"] is None
    assert margin["success_classifier"] is margin["mean_l2_classifier"] is None
    assert (integrated["detection"], integrated["auc"]) == ([], None)
    # There M answered; of the others the wrong class was recovered.
    assert integrated["unflagged"] == Rate(1, 6)


def test_the_area_is_that_of_the_successful_against_the_same_before(
    tmp_path: Path, watermark: Watermark
) -> None:
    clean = np.array([0.5, 0.1, 0.95, 0.1, 0.0, 0.0])
    runs = [make_run("paper", "FGSM")]
    frame = framed(tmp_path, watermark, (runs[0], PAPER)).assign(clean_score=clean)
    [row] = attack_rows(frame, runs)
    truth = [1, 1, 1, 1, 0, 0, 0, 0]
    expected = roc_auc_score(truth, [0.9, 0.6, 0.4, 0.6, *clean[:4]])
    assert row["auc"] == pytest.approx(expected)
    never = framed(tmp_path / "never", watermark, (runs[0], make_record()))
    [row] = attack_rows(never, runs)
    assert (row["auc"], row["mean_l2"]) == (None, None)
    assert row["detection"][0]["detected"].value is None


def test_the_worst_case_joins_the_attacks_that_met_an_image(
    tmp_path: Path, watermark: Watermark
) -> None:
    last = make_record(
        answer=[0, 1, 2, 0, 1, 1], evidence=evidence_of(np.zeros((6, 3)))
    )
    few = dataclasses.replace(make_run("paper", "CW2"), images=3)
    frame = framed(
        tmp_path,
        watermark,
        (make_run("paper", "FGSM"), PAPER),
        (make_run("paper", "PGD"), last),
    )
    [case] = worst_cases(frame)
    assert case == {
        "variant": "paper",
        "misclassified": Rate(5, 6),
        "overall": {0.05: Rate(2, 6), 0.005: Rate(4, 6)},
    }
    frame = framed(
        tmp_path / "few",
        watermark,
        (make_run("undefended", "FGSM"), PAPER),
        (make_run("paper", "FGSM"), PAPER),
        (few, make_record()),
        (make_run("margin", "FGSM"), last),
        (make_run("integrated", "FGSM"), last),
    )
    by_variant = {case["variant"]: case for case in worst_cases(frame)}
    assert [*by_variant] == ["paper", "margin", "integrated", "any_loss"]
    # The first three are what CW2 met too.
    assert by_variant["paper"]["misclassified"] == Rate(3, 3)
    assert by_variant["any_loss"]["overall"] == {0.05: Rate(1, 3), 0.005: Rate(2, 3)}
    assert by_variant["integrated"]["overall"] == {0.05: Rate(1, 6)}


def test_what_goes_unnoticed_is_compared_with_what_does_not(
    tmp_path: Path, watermark: Watermark
) -> None:
    seen = make_record(answer=WRONG, evidence=evidence(*[0.9] * 6))
    frame = framed(
        tmp_path,
        watermark,
        (make_run("paper", "FGSM"), PAPER),
        (make_run("paper", "PGD"), seen),
        (make_run("margin", "FGSM"), PAPER),
    )
    [row] = unnoticed(frame)
    assert (row["attack"], row["fpr"]) == ("FGSM", 0.05)
    assert row["unnoticed"] == pytest.approx(
        {"count": 1, "lead": 0.2, "pull": -0.1, "l2": 3.0}
    )
    assert row["noticed"] == pytest.approx(
        {"count": 3, "lead": 0.1, "pull": 0.7, "l2": 2.0}
    )
    frame["flagged_0.05"] = False
    [row, _] = unnoticed(frame)
    assert row["noticed"] == {"count": 0, "lead": None, "pull": None, "l2": None}


def test_two_outcomes_are_compared_on_common_images() -> None:
    first = pd.Series([True] * 8 + [False] * 2, index=range(10))
    # In another order, with images that the first never met.
    second = pd.Series([True] * 5 + [False] * 10, index=range(14, -1, -1))
    pair = compare(first, second)
    assert (pair.images, pair.ahead, pair.behind) == (10, 8, 0)
    assert pair.shares == (0.8, 0.0)
    # Of eight that differ none is behind: 2 / 2 ** 8, by hand.
    assert pair.p_value == pytest.approx(2 / 2**8)
    # Nothing in common and nothing that differs prove nothing.
    assert compare(first, first).p_value == 1.0
    apart = compare(first, pd.Series([True], index=[99]))
    assert (apart.images, apart.shares, apart.p_value) == (0, (0.0, 0.0), 1.0)
