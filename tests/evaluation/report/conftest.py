import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pytest

from keras_traps.evaluation.paper import paper_clean, paper_row
from keras_traps.evaluation.report.blocks import Document
from keras_traps.evaluation.report.document import build_document
from keras_traps.evaluation.results import (
    INTEGRATED,
    AttackRow,
    CleanResults,
    DetectionRates,
    Evaluation,
    Example,
    Samples,
    Variant,
    WorstCase,
)
from keras_traps.rates import Rate

KINDS: dict[str, Any] = {"FGSM": "UA", "OM": "UA", "ILLC": "TA", "CW2": "TA"}
ALL: tuple[Variant, ...] = ("paper", "margin", "raw_sum", "integrated")


class MakeEvaluation(Protocol):
    """Builds an evaluation without running one."""

    def __call__(
        self,
        attacks: Sequence[str] = ...,
        variants: Sequence[Variant] = ...,
        shape: tuple[int, int, int] = ...,
    ) -> Evaluation: ...


def without_plots(evaluation: Evaluation) -> Evaluation:
    """Leaves the examples, but no scores or correlations that take time to draw."""
    none = np.zeros((0, 10), np.float32)
    samples = Samples(none, none[:, 0], {}, {}, evaluation.samples.examples)
    return dataclasses.replace(evaluation, samples=samples)


def row(attack: str, variant: Variant, fooled: int, missed: int) -> AttackRow:
    caught = fooled - missed
    detection = tuple(
        DetectionRates(
            fpr,
            detected=Rate(caught, fooled),
            recovered=Rate(caught, caught),
            overall=Rate(missed, 50),
        )
        for fpr in (0.05, 0.005)
    )
    return AttackRow(
        attack=attack,
        kind=KINDS.get(attack, "UA"),
        variant=variant,
        settings={"eps": 0.3, "nb_iter": 15},
        note="Fewer iterations than published." if attack == "CW2" else "",
        success_classifier=Rate(49, 50) if variant == "paper" else None,
        success_trapped=Rate(fooled, 50),
        detection=() if variant in INTEGRATED else detection,
        auc=0.987 if variant == "paper" and fooled else None,
        mean_l2=1.25 if fooled else None,
        mean_l2_classifier=None,
        paper=paper_row(attack, "mnist"),
        unflagged=Rate(missed, 50) if variant in INTEGRATED else None,
    )


def example(attack: str, shape: tuple[int, int, int], flagged: bool) -> Example:
    rng = np.random.default_rng(1)
    clean = rng.random(shape, dtype=np.float32)
    adversarial = np.clip(clean + rng.choice([-0.1, 0.1], shape), 0, 1)
    return Example(
        attack=attack,
        clean=clean,
        adversarial=adversarial.astype(np.float32),
        label=7,
        predicted=3,
        score=1.5 if flagged else 0.2,
        flagged=flagged,
        fired=("C1", "C3") if flagged else (),
        recovered=7,
    )


@pytest.fixture(scope="session")
def make_evaluation() -> MakeEvaluation:
    def make(
        attacks: Sequence[str] = tuple(KINDS),
        variants: Sequence[Variant] = ALL,
        shape: tuple[int, int, int] = (28, 28, 1),
    ) -> Evaluation:
        rng = np.random.default_rng(0)
        w = {a: rng.normal(0.1, 0.1, (20, 10)).astype(np.float32) for a in attacks}
        clean_w = rng.normal(0, 0.03, (60, 10)).astype(np.float32)
        rates = (0.05, 0.005)
        accuracy = paper_clean("mnist")
        return Evaluation(
            title="Attractors on MNIST",
            dataset="mnist",
            class_names=tuple("0123456789"),
            provenance={
                "command": "python evaluate.py --seed 3",
                "seed": 3,
                "versions": {"keras": "3.15.1"},
            },
            calibration={"explanation": "The largest slope that fits.", "A2": 0.3},
            thresholds={f: {"U": 0.1, "L": -0.1, "sigma0": 0.05} for f in rates},
            clean=CleanResults(
                Rate(992, 1000),
                Rate(990, 1000),
                {0.05: Rate(120, 1000), 0.005: Rate(5, 1000)},
                *accuracy,
            ),
            rows=tuple(
                row(attack, variant, 40, 6 if variant == "paper" else 12)
                for attack in attacks
                for variant in variants
            ),
            worst_cases=tuple(
                WorstCase(v, Rate(45, 50), {f: Rate(9, 50) for f in rates})
                for v in variants
                if v not in INTEGRATED
            ),
            warnings=("A black box beats a white box.",),
            samples=Samples(
                clean_correlations=clean_w,
                clean_scores=clean_w.max(axis=1),
                attacked_correlations=w,
                attacked_scores={a: values.max(axis=1) for a, values in w.items()},
                examples=tuple(example(a, shape, a != "OM") for a in attacks),
            ),
        )

    return make


@pytest.fixture(scope="session")
def evaluation(make_evaluation: MakeEvaluation) -> Evaluation:
    return make_evaluation()


@pytest.fixture(scope="session")
def document(evaluation: Evaluation) -> Document:
    return build_document(evaluation)
