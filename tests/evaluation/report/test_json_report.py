import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from keras_traps.evaluation.report.json_report import to_json
from keras_traps.evaluation.results import Evaluation
from keras_traps.rates import Rate


def strict(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    document: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return document


def test_what_is_not_finite_becomes_null(evaluation: Evaluation) -> None:
    broken = dataclasses.replace(
        evaluation,
        calibration={"A0": float("nan"), "A1": np.float32("inf")},
        thresholds={0.05: {"U": float("-inf")}},
    )

    document = strict(to_json(broken))

    assert document["calibration"] == {"A0": None, "A1": None}
    assert document["thresholds"] == {"0.05": {"U": None}}


def test_rates_carry_counts_value_and_interval(evaluation: Evaluation) -> None:
    document = strict(to_json(evaluation))

    assert document["clean"]["accuracy_trapped"] == {
        "count": 990,
        "total": 1000,
        "value": 0.99,
        "interval": list(Rate(990, 1000).interval or ()),
    }


def test_a_rate_of_nothing_is_null_and_not_zero(evaluation: Evaluation) -> None:
    first = dataclasses.replace(evaluation.rows[0], success_trapped=Rate(0, 0))

    document = strict(to_json(dataclasses.replace(evaluation, rows=(first,))))

    assert document["rows"][0]["success_trapped"] == {
        "count": 0,
        "total": 0,
        "value": None,
        "interval": None,
    }


def test_nominal_rates_are_string_keys(evaluation: Evaluation) -> None:
    document = strict(to_json(evaluation))

    assert list(document["thresholds"]) == ["0.05", "0.005"]
    assert list(document["clean"]["false_positives"]) == ["0.05", "0.005"]
    assert list(document["worst_cases"][0]["overall"]) == ["0.05", "0.005"]


def test_no_pixels_and_no_sample_arrays_are_written(evaluation: Evaluation) -> None:
    document = strict(to_json(evaluation))

    assert "samples" not in document
    assert set(document["examples"][0]) == {
        "attack",
        "label",
        "predicted",
        "score",
        "flagged",
        "fired",
        "recovered",
    }


def test_every_row_is_there_with_its_settings(evaluation: Evaluation) -> None:
    rows = strict(to_json(evaluation))["rows"]

    assert [(r["attack"], r["variant"]) for r in rows] == [
        (r.attack, r.variant) for r in evaluation.rows
    ]
    assert rows[0]["settings"] == {"eps": 0.3, "nb_iter": 15}


def test_numpy_numbers_become_plain_numbers(evaluation: Evaluation) -> None:
    settings = {"eps": np.float32(0.5), "n": np.int64(3), "steps": np.arange(2)}
    first = dataclasses.replace(evaluation.rows[0], settings=settings)

    document = strict(to_json(dataclasses.replace(evaluation, rows=(first,))))

    assert document["rows"][0]["settings"] == {"eps": 0.5, "n": 3, "steps": [0, 1]}
