import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from keras_traps import Calibration, attacks
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.evaluate import evaluate
from keras_traps.evaluation.results import Evaluation

Evaluate = Callable[..., Evaluation]


class Run(NamedTuple):
    """An evaluation that nothing disturbed, and where its records are."""

    found: Evaluation
    workdir: Path


@pytest.fixture(scope="session")
def evaluate_digits(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_test: Dataset,
    digits_train: Dataset,
) -> Evaluate:
    """Evaluates two attacks on a few digits, three chunks; arguments may be changed."""
    arguments: dict[str, Any] = {
        "defence": digits_defence,
        "calibration": digits_calibration,
        "test": digits_test,
        "attacks": attacks.preset("digits", ["FGSM", "PGD"]),
        "background": digits_train.images,
        "provenance": {"command": "python recipes/digits.py", "seed": 5},
        "num_examples": 14,
        "chunk_size": 6,
        "seed": 5,
    }

    def run(**changes: Any) -> Evaluation:
        return evaluate(**{**arguments, **changes})

    return functools.wraps(evaluate)(run)


@pytest.fixture(scope="session")
def undisturbed(
    evaluate_digits: Evaluate, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    workdir = tmp_path_factory.mktemp("undisturbed")
    return Run(evaluate_digits(workdir=workdir), workdir)
